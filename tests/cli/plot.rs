//! `erw plot`: curves of the results of a sweep, and errors where there is nothing to draw.

use crate::support::space::{Said, Space};

/// `fd-N` measures 100 / N + gap + seed.
const STAGES: &str = r#"
[stages.base]
kind = "command"
run = "echo {params.gap} {params.seed} {params.tag} > {outputs.o}"
outputs = { o = "t" }
params = { gap = 0, seed = 0, tag = "k@5" }
[stages.fd-10]
kind = "command"
run = '''read gap seed tag < {inputs.x}; echo '{"fd": '$((100 / {params.n} + gap + seed))', "other": 7}' > {outputs.m}'''
inputs = { x = "base" }
outputs = { m = "metrics" }
params = { n = 10 }
[stages.fd-20]
kind = "command"
run = '''read gap seed tag < {inputs.x}; echo '{"fd": '$((100 / {params.n} + gap + seed))', "other": 8}' > {outputs.m}'''
inputs = { x = "base" }
outputs = { m = "metrics" }
params = { n = 20 }
[sweep]
"#;

const SEEDS: &str = "\"base.seed\" = [0, 2]\n[[sweep.trials]]\nname = \"a\"\n\"base.gap\" = 0\n[[sweep.trials]]\nname = \"b\"\n\"base.gap\" = 3\n";

fn plot(space: &Space, args: &[&str], status: i32) -> Said {
    space.erw(&[&["plot", "p.toml"], args].concat()).expect(status)
}

fn done(sweep: &str) -> Space {
    let space = Space::new(&format!("{STAGES}{sweep}"));
    space.erw(&["sweep", "p.toml", "--plain"]).expect(0);
    space
}

#[test]
fn stages_with_numbers_are_curves_of_means_over_seeds() {
    let space = Space::new(&format!("{STAGES}{SEEDS}"));
    let said = plot(&space, &["--y", "fd-*"], 2).stderr;
    assert_eq!(said, "error: no trial of the sweep has a result to plot\nhint: run `erw sweep p.toml` first\n");
    space.erw(&["sweep", "p.toml", "--plain"]).expect(0);
    let said = plot(&space, &["--y", "fd-*", "--y", "fd-*.other", "--x-title", "steps", "-o", "c.svg"], 0).stdout;
    assert_eq!(said, "c.svg: 2 panels, 8 points\n");
    let svg = space.read("c.svg");
    // `a` is at 11 and 6, `b` at 14 and 9, the bands reach from 6 - 1.41 to 14 + 1.41: 18.3 pixels
    // a unit.
    assert!(svg.contains("<polyline points=\"64.0,148.7 376.0,240.1\" fill=\"none\" stroke=\"#3b82d0\""), "{svg}");
    assert!(svg.contains("<polyline points=\"64.0,93.9 376.0,185.3\" fill=\"none\" stroke=\"#dd7a2a\""), "{svg}");
    for word in ["a", "b", "fd", "fd.other", "steps", "mean and standard deviation of 2 trials", "10", "20"] {
        assert!(svg.contains(&format!(">{word}</text>")), "{word} in {svg}");
    }
    assert_eq!(plot(&space, &["--y", "fd-*", "--y", "fd-*.other", "--x-title", "steps"], 0).stdout, svg);
    let one = plot(&space, &["--y", "fd-*", "--over", "base.seed", "--filter", "base.gap=3"], 0).stdout;
    assert!(one.contains(">b</text>") && !one.contains(">a</text>"), "{one}");
}

#[test]
fn the_note_counts_the_runs_of_what_is_plotted() {
    let once = "[stages.once]\nkind = \"command\"\nrun = \"echo '{\\\"size\\\": {params.gap}}' > {outputs.m}\"\n\
                outputs = { m = \"metrics\" }\nparams = { gap = 0 }\n[sweep]\n";
    let seeds =
        SEEDS.replace("gap\" = 0", "gap\" = 0\n\"once.gap\" = 0").replace("gap\" = 3", "gap\" = 3\n\"once.gap\" = 3");
    let space = Space::new(&format!("{}{once}{seeds}", STAGES.trim_end_matches("[sweep]\n")));
    space.erw(&["sweep", "p.toml", "--plain"]).expect(0);
    let svg = plot(&space, &["--y", "fd-*"], 0).stdout;
    assert!(svg.contains(">mean and standard deviation of 2 trials<"), "not of `once`, which ran once: {svg}");
    let table = space.erw(&["sweep", "p.toml", "--table", "--format", "csv"]).expect(0).stdout;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    let at = rows[0].iter().position(|title| *title == "size").unwrap();
    assert_eq!(rows[1][at..at + 3], ["0", "", "1"], "no deviation of one value: {table}");
}

#[test]
fn an_axis_with_numbers_is_x() {
    let space = done("\"base.gap\" = [1, 4]\n\"base.tag\" = [\"k@5\", \"k@15\"]\n");
    let names = |args: &[&str]| -> Vec<String> {
        let svg = plot(&space, &[&["--y", "fd-10.fd"], args].concat(), 0).stdout;
        let texts = svg.split("</text>").filter_map(|t| t.rsplit_once('>'));
        texts.map(|(_, word)| word.to_string()).filter(|word| word.contains(['=', '.'])).collect()
    };
    assert_eq!(names(&["--x", "base.tag"]), ["gap=1", "gap=4", "fd-10.fd", "base.tag"]);
    assert_eq!(names(&["--x", "gap"])[..2], ["tag=k@5", "tag=k@15"]);
}

#[test]
fn a_sweep_without_numbers_is_an_error() {
    let space = done(SEEDS);
    for (args, error) in [
        (&["--y", "fd-*", "-o", "c.png"][..], "`c.png` does not end in `.svg`\nhint: plots are written as SVG\n"),
        (
            &["--y", "fd-10.fd"],
            "`--y fd-10.fd`: x is not defined\nhint: use a `*` in the metric, such as `fd-*`, or name an axis with `--x`\n",
        ),
        (
            &["--y", "fd-*", "--x", "trials"],
            "`--y fd-*`: `*` and `--x` both define x\nhint: use a `*` in the metric, such as `fd-*`, or name an axis with `--x`\n",
        ),
        (&["--y", "fd-10.fd", "--x", "seed"], "`--x seed`: results are averaged over this axis\n"),
        (&["--y", "fd-10.fd", "--x", "sed"], "`--x sed`: no such axis\nhint: did you mean `seed`?\n"),
        (
            &["--y", "fx-*"],
            "`--y fx-*`: no such result\nhint: the results are `fd-10.fd`, `fd-10.other`, `fd-20.fd`, `fd-20.other`\n",
        ),
    ] {
        assert_eq!(plot(&space, args, 2).stderr, format!("error: {error}"), "{args:?}");
    }
    let space = done("\"base.tag\" = [\"one\", \"two\"]\n");
    let said = plot(&space, &["--y", "fd-10.fd", "--x", "tag"], 2).stderr;
    assert_eq!(said, "error: `--x`: `one` is not a number and does not end in `@NUMBER`\n");
}
