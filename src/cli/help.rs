//! Help: examples and headings for the subcommands, and `erw help TOPIC`. They are in one table, to
//! be of one voice; a test asks for an example of every subcommand.

use super::common::print;
use super::stages;
use clap::{Arg, Command};
use erw_base::error::{Error, Result};
use erw_runner::kind::Registry;
use erw_runner::pipeline::command;
use erw_runner::text::suggest;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A subcommand, or a stage kind
    #[arg(value_name = "TOPIC")]
    pub topic: Vec<String>,
}

/// Headings of options, each with the names of its options. Others stay under `Options`.
const HEADINGS: [(&str, &[&str]); 7] = [
    ("Values of the pipeline", &["set", "axis"]),
    ("Search", &["search", "minimise", "maximise", "tolerance", "rounds"]),
    ("Resources", &["jobs", "threads", "mem", "gpus", "resource", "max_load", "device", "batch"]),
    ("Failures", &["keep_going", "fail_fast", "retries", "timeout"]),
    ("Jobs of a cluster", &["launcher", "partition", "account", "time", "detach"]),
    ("Output", &["json", "plain", "junit", "report", "format", "verbose", "show_origin"]),
    ("Global options", &["cache_dir", "profile", "remote", "color"]),
];

/// Examples by subcommand. Each line is a command line; what follows `#` explains it.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "erw",
        "\
erw init digits                    # write the quick start
erw run digits.toml                # run what is stale
erw help train                     # what the kind `train` does
erw help run                       # the help of a subcommand",
    ),
    ("erw init", "erw init digits\nerw init mine --images ~/photos"),
    ("erw init digits", "erw init digits\nerw init digits quick             # into the folder `quick`"),
    ("erw init mine", "erw init mine --images ~/photos\nerw init mine --images photos.zip --resolution 64"),
    (
        "erw run",
        "\
erw run digits.toml                          # all that is stale
erw run digits.toml train                    # only `train` and what it needs
erw run digits.toml --set train.steps=3000   # with another value
erw run digits.toml -k -j 4                  # go on after a failure, four stages at a time",
    ),
    (
        "erw plan",
        "\
erw plan digits.toml
erw plan digits.toml --set train.lr=1e-4     # what another value would cost
erw plan digits.toml --since HEAD~1          # what an edit makes stale",
    ),
    ("erw why", "erw why digits.toml train"),
    ("erw explain", "erw explain digits.toml train"),
    ("erw graph", "erw graph digits.toml\nerw graph digits.toml --format mermaid"),
    ("erw stages", "erw stages\nerw stages train"),
    ("erw schema", "erw schema > erw.schema.json      # named by `#:schema ./erw.schema.json` in a pipeline"),
    (
        "erw sweep",
        "\
erw sweep ablation.toml
erw sweep ablation.toml --table --sort fd    # the results so far
erw sweep digits.toml --axis train.seed=0..5 --axis train.lr=1e-4,2e-4
erw sweep digits.toml --search sample.cfg_scale=1.0..4.0 --minimise fd   # the best guidance",
    ),
    (
        "erw metrics",
        "\
erw metrics digits.toml
erw metrics digits.toml train --steps
erw metrics digits.toml --axis seed=0..5 --bands --format csv > digits.curves.csv",
    ),
    (
        "erw eval",
        "\
erw eval fid samples.npz VIRTUAL_imagenet256_labeled.npz
erw eval all samples/ photos.zip --mode torch-fidelity --json
erw eval fd samples/ photos/ --limit 10000 --device cuda:0
erw eval kid digits.toml:sample digits.toml:held-out --network digits.toml:classifier
erw eval cknna sit.safetensors dinov2.npy --key block8
erw eval stats photos/ -o photos-stats.npz",
    ),
    ("erw eval fid", "erw eval fid samples.npz reference.npz --mode adm"),
    ("erw eval sfid", "erw eval sfid samples.npz reference.npz --mode adm"),
    ("erw eval is", "erw eval is samples/"),
    ("erw eval pr", "erw eval pr samples.npz reference.npz -k 5"),
    ("erw eval kid", "erw eval kid samples/ reference/ --kid-subsets 50"),
    ("erw eval fd", "erw eval fd samples/ reference/ --network dinov2-vit-l"),
    ("erw eval cmmd", "erw eval cmmd samples/ reference/"),
    ("erw eval all", "erw eval all samples.npz reference.npz --json"),
    ("erw eval stats", "erw eval stats images/ -o reference.npz"),
    ("erw eval cknna", "erw eval cknna features.npy others.npy -k 10"),
    ("erw eval cka", "erw eval cka features.npy others.npy"),
    ("erw eval mutual-knn", "erw eval mutual-knn features.npy others.npy -k 10"),
    ("erw plot", "erw plot ablation.toml --y 'fd-*' -o fd.svg"),
    (
        "erw compare",
        "\
erw compare baseline.toml mine.toml
erw compare ablation.toml@sit,seed=0 ablation.toml@erw,seed=0
erw compare HEAD~1:digits.toml digits.toml
erw compare digits.toml digits.curves.csv    # reference curves of `erw metrics --bands`",
    ),
    (
        "erw report",
        "\
erw report digits.toml -o digits.html
erw report ablation.toml --sweep --watch     # while it runs
erw report baseline.toml mine.toml           # side by side",
    ),
    ("erw verify", "erw verify digits.toml\nerw verify digits.toml train"),
    ("erw log", "erw log\nerw log 20260131"),
    ("erw logs", "erw logs digits.toml train -f\nerw logs ablation.toml train@sit,seed=0 -n 50"),
    ("erw jobs", "erw jobs\nerw jobs digits.toml --json"),
    ("erw stop", "erw stop digits.toml\nerw stop digits.toml train"),
    ("erw show", "erw show digits.toml:sample\nerw show 3403f4358462"),
    ("erw cache", "erw cache du\nerw cache gc --older-than 30d -n\nerw cache pull digits.toml --remote s3://lab/erw"),
    ("erw cache ls", "erw cache ls --kind train"),
    ("erw cache show", "erw cache show digits.toml:sample"),
    ("erw cache du", "erw cache du"),
    ("erw cache verify", "erw cache verify"),
    (
        "erw cache gc",
        "\
erw cache gc -n                              # what would be removed
erw cache gc --keep-pipelines digits.toml --older-than 30d
erw cache gc --max-size 100GiB",
    ),
    ("erw cache tag", "erw cache tag\nerw cache tag paper digits.toml"),
    ("erw cache untag", "erw cache untag paper"),
    ("erw cache push", "erw cache push digits.toml --remote s3://lab/erw"),
    ("erw cache pull", "erw cache pull digits.toml train --remote s3://lab/erw"),
    ("erw cache status", "erw cache status digits.toml --remote s3://lab/erw"),
    ("erw export", "erw export digits.toml train weights\nerw export digits.toml sample images --link"),
    ("erw weights", "erw weights list\nerw weights fetch sd-vae-ft-ema"),
    ("erw weights list", "erw weights list"),
    ("erw weights fetch", "erw weights fetch sd-vae-ft-ema\nerw weights fetch --pipeline sit-xl.toml"),
    ("erw weights verify", "erw weights verify"),
    ("erw weights import", "erw weights import 0100000.pt --as SiT-XL/2 --out sit"),
    ("erw weights export", "erw weights export digits.toml train --out sit.safetensors"),
    ("erw config", "erw config list --show-origin\nerw config get cache_dir"),
    ("erw config list", "erw config list --show-origin"),
    ("erw config get", "erw config get kinds.train.timeout"),
    ("erw config path", "erw config path digits.toml"),
    ("erw site", "erw site check --gpus 1"),
    ("erw site check", "erw site check --gpus 1"),
    (
        "erw completions",
        "\
erw completions bash > ~/.local/share/bash-completion/completions/erw
erw completions zsh > ~/.zfunc/_erw          # a folder of `fpath`
erw completions fish > ~/.config/fish/completions/erw.fish",
    ),
    ("erw man", "erw man ~/.local/share/man"),
    ("erw help", "erw help run\nerw help cache gc\nerw help train"),
];

/// The command line with examples and headings.
pub fn extended(command: Command) -> Command {
    below(command, "")
}

fn below(command: Command, above: &str) -> Command {
    let path = format!("{above} {}", command.get_name()).trim_start().to_string();
    let command = command.mut_args(under_heading).mut_subcommands(|command| below(command, &path));
    let Some((_, examples)) = EXAMPLES.iter().find(|(of, _)| *of == path) else { return command };
    let more = command.get_after_help().map_or(String::new(), |more| format!("\n\n{more}"));
    let style = *command.get_styles().get_header();
    let examples = examples.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
    command.after_help(format!("{style}Examples:{style:#}\n{examples}{more}"))
}

fn under_heading(arg: Arg) -> Arg {
    let id = arg.get_id().as_str();
    let heading = HEADINGS.iter().find(|(_, ids)| !arg.is_positional() && ids.contains(&id));
    match heading {
        Some((heading, _)) => arg.help_heading(*heading),
        None => arg,
    }
}

/// Prints the help of a subcommand, or the manifest of a kind; `command` is the whole command line.
pub fn run(args: &Args, command: Command, registry: Registry) -> Result<()> {
    let found = args.topic.iter().try_fold(&command, |command, name| command.find_subcommand(name));
    if found.is_some() {
        let line = [command.get_name()].into_iter().chain(args.topic.iter().map(String::as_str)).chain(["--help"]);
        let line: Vec<String> = line.map(String::from).collect();
        // clap answers a question for help with an error.
        return match command.try_get_matches_from(line) {
            Err(help) => help.print().map_err(|e| Error::usage("cannot write to standard output").because(e)),
            Ok(_) => Ok(()),
        };
    }
    let topic = args.topic.join(" ");
    let kinds = || command::kinds(registry).map(|kind| kind as &str);
    if kinds().any(|kind| kind == topic) {
        return print(&stages::text(Some(&topic), registry)?);
    }
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set()).map(Command::get_name);
    let near = suggest::nearest(&topic, shown.chain(kinds())).map(|near| format!("did you mean `{near}`?"));
    let otherwise = "run `erw help` for the subcommands, `erw stages` for the kinds";
    let error = Error::usage(format!("no subcommand and no kind is called `{topic}`"));
    Err(error.hint(near.unwrap_or_else(|| otherwise.into())))
}
