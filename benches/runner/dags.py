"""One graph, written in the language of each tool.

The graph has a source, N - 2 stages that each read the source and a parameter, and a sink that
reads the outputs of all stages. Each tool is a class: `write` creates its files in an empty folder,
`change` changes the parameter of one stage, and `command` is the command to time. Every stage
writes `{ cat src; echo PARAMETER; }`; the sink sorts the outputs of all stages.
"""

import json
import re
from pathlib import Path


class Tool:
    name = program = ""
    version = ["--version"]

    def __init__(self, jobs: int):
        self.jobs = str(jobs)


class Ninja(Tool):
    name = program = "ninja"

    def write(self, at: Path, middle: range):
        rules = "rule mid\n  command = { cat src; echo $p; } > $out\nrule sink\n  command = sort -o $out mid/*\n"
        mids = "".join(f"build mid/{i}: mid src\n  p = {i}\n" for i in middle)
        sink = "build sink: sink " + " ".join(f"mid/{i}" for i in middle) + "\n"
        (at / "build.ninja").write_text(rules + mids + sink)

    def change(self, at: Path, stage: int, turn: int):
        path = at / "build.ninja"
        path.write_text(re.sub(rf"(build mid/{stage}: mid src\n  p = ).*", rf"\g<1>new{turn}", path.read_text()))

    def command(self):
        return ["ninja", "--quiet", "-j", self.jobs]


class Make(Tool):
    """Make does not track recipes, so every parameter is a file."""

    name = program = "make"

    def write(self, at: Path, middle: range):
        (at / "p").mkdir()
        for i in middle:
            (at / f"p/{i}").write_text(f"{i}\n")
        mids = " ".join(f"mid/{i}" for i in middle)
        rules = f"sink: {mids}\n\tsort -o sink mid/*\nmid/%: src p/%\n\t{{ cat src; cat p/$*; }} > $@\n"
        (at / "Makefile").write_text(rules)

    def change(self, at: Path, stage: int, turn: int):
        (at / f"p/{stage}").write_text(f"new{turn}\n")

    def command(self):
        return ["make", "--silent", "-j", self.jobs, "sink"]


class Snakemake(Tool):
    name = program = "snakemake"

    def write(self, at: Path, middle: range):
        (at / "config.json").write_text(json.dumps({"p": {str(i): str(i) for i in middle}}, indent=0))
        (at / "Snakefile").write_text(
            'configfile: "config.json"\n'
            'rule sink:\n    input: expand("mid/{i}", i=config["p"])\n    output: "sink"\n    shell: "sort -o {output} mid/*"\n'
            'rule mid:\n    input: "src"\n    output: "mid/{i}"\n    params: p=lambda w: config["p"][w.i]\n'
            '    shell: "{{ cat src; echo {params.p}; }} > {output}"\n'
        )

    def change(self, at: Path, stage: int, turn: int):
        path = at / "config.json"
        path.write_text(re.sub(rf'("{stage}": ).*?(,?)$', rf'\1"new{turn}"\2', path.read_text(), flags=re.M))

    def command(self):
        return ["snakemake", "--quiet", "all", "-c", self.jobs]


class Dvc(Tool):
    """DVC does not run stages in parallel."""

    name = program = "dvc"

    def write(self, at: Path, middle: range):
        (at / "params.yaml").write_text("".join(f"p{i}: {i}\n" for i in middle))
        text = "stages:\n"
        for i in middle:
            text += f"  mid{i}:\n    cmd: '{{ cat src; echo ${{p{i}}}; }} > mid/{i}'\n"
            text += f"    deps: [src]\n    params: [p{i}]\n    outs: [mid/{i}]\n"
        text += f"  sink:\n    cmd: sort -o sink mid/*\n    deps: [{', '.join(f'mid/{i}' for i in middle)}]\n    outs: [sink]\n"
        (at / "dvc.yaml").write_text(text)
        (at / ".prepare").write_text("dvc init --quiet --no-scm")

    def change(self, at: Path, stage: int, turn: int):
        path = at / "params.yaml"
        path.write_text(re.sub(rf"^p{stage}: .*$", f"p{stage}: new{turn}", path.read_text(), flags=re.M))

    def command(self):
        return ["dvc", "repro", "--quiet"]


class ErwShell(Tool):
    """erw with a shell for every stage, like the other tools."""

    name = "erw, sh"
    mid = 'run = "{ cat src; echo {params.p}; } > {outputs.o}"'

    def __init__(self, jobs: int, erw: str):
        super().__init__(jobs)
        self.program = erw

    def write(self, at: Path, middle: range):
        head = 'kind = "command"\noutputs = { o = "text" }\nresources = { threads = 1 }\n'
        text = 'name = "dag"\n'
        for i in middle:
            text += f'[stages.mid{i}]\n{head}{self.mid}\nwatch = ["src"]\nparams = {{ p = "{i}" }}\n'
        words = ", ".join(f'"{{inputs.m{i}}}"' for i in middle)
        slots = "".join(f'm{i} = "mid{i}"\n' for i in middle)
        text += f'[stages.sink]\n{head}run = ["sort", "-o", "{{outputs.o}}", {words}]\n[stages.sink.inputs]\n{slots}'
        (at / "dag.toml").write_text(text)

    def change(self, at: Path, stage: int, turn: int):
        path = at / "dag.toml"
        whole = rf'(\[stages.mid{stage}\]\n(?:.*\n)*?params = {{ p = )".*?"'
        path.write_text(re.sub(whole, rf'\g<1>"new{turn}"', path.read_text(), count=1))

    def command(self):
        return [self.program, "run", "dag.toml", "--plain", "--jobs", self.jobs, "--threads", self.jobs]

    def plan(self):
        return [self.program, "plan", "dag.toml"]


class Erw(ErwShell):
    """erw with a program and its arguments instead of a shell.

    The parameter is appended to the line of the source instead of written below it.
    """

    name = "erw"
    mid = 'run = ["sed", "-n", "s/$/ {params.p}/w {outputs.o}", "src"]'
