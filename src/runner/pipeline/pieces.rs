//! Reads a large pipeline file piece by piece: what the file says of some hundred stages is parsed,
//! checked and resolved, and only the stages are kept. The parser takes many times the memory of the
//! text that it reads, and what a file says takes as much as the stages that come of it.
//!
//! The result must be what the whole would be. A text that needs more than its pieces to be understood
//! (parents, a sweep, a stage stated in two pieces, settings of stages in other pieces), or that has an
//! error, is read as a whole: only then an error is one.

use super::command::NAME;
use super::draft::Draft;
use super::file::{File, Source, Spec, Spelling};
use super::graph::Pipeline;
use super::layers::Overrides;
use super::sections::Sections;
use crate::kind::Registry;
use crate::text::spanned::{Entry, parse_piece};
use erw_base::process;
use rayon::prelude::*;
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::path::Path;

/// Bytes of a piece.
const SIZE: usize = 64 << 10;

impl Pipeline {
    /// The pipeline in this file; `None` if it has to be read as a whole.
    pub(crate) fn of_pieces(path: &Path, source: &Source, registry: Registry, overrides: &Overrides) -> Option<Self> {
        let is_large = source.text.text.len() > 2 * SIZE;
        let is_alone = overrides.set.is_empty() && overrides.env.is_empty();
        (is_large && is_alone).then(|| read(path, source, SIZE, registry)).flatten()
    }
}

fn read(path: &Path, source: &Source, size: usize, registry: Registry) -> Option<Pipeline> {
    let (pieces, others) = Sections::of(&source.text.text)?.pieces(size);
    let mut shared: Vec<Entry> = vec![];
    for piece in others {
        shared.extend(parse_piece(&source.text, piece)?);
    }
    let mut names = HashSet::new();
    let is_fit = |entry: &Entry| matches!(entry.key.as_str(), "name" | "params") && names.insert(entry.key.clone());
    shared.iter().all(is_fit).then_some(())?;
    let drafts = |piece: &Range<usize>| -> Option<(Spec, Vec<Draft>)> {
        let said = shared.iter().cloned().chain(parse_piece(&source.text, piece.clone())?);
        let file = File::of(path, source.digest, said.collect()).ok()?;
        let mut spec = Spec::with(vec![file], path, &BTreeSet::new(), registry).ok()?;
        let drafts = spec.own_drafts(&Overrides::default(), &[]).ok()?;
        spec.forget_statements();
        spec.stages = vec![];
        Some((spec, drafts))
    };
    let found: Vec<(Spec, Vec<Draft>)> = pieces.par_iter().map(drafts).collect::<Option<_>>()?;
    let mut all: Vec<Draft> = Vec::with_capacity(found.iter().map(|(_, drafts)| drafts.len()).sum());
    // What is not of stages is the same in each.
    let mut any = None;
    for (spec, drafts) in found {
        all.extend(drafts);
        any = Some(spec);
    }
    let mut names = HashSet::new();
    let mut spelt = Spelling::new(registry);
    for stage in all.iter().map(|draft| &draft.stage) {
        names.insert(stage.name.as_str()).then_some(())?;
        // Warnings name places in the file.
        let mut types = stage.outputs.values().filter(|_| stage.kind.name == NAME);
        types.all(|ty| matches!(spelt.meant(ty), Ok(None))).then_some(())?;
    }
    // The stages are small and lie between what was freed.
    process::return_freed_memory();
    any?.of_drafts(all).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::graph::Stage;
    use erw_base::error::{Place, Text};

    /// All that is known of a stage, with places.
    fn told(stage: &Stage) -> String {
        let place = |place: Option<&Place>| place.map(|place| (place.span(), place.line_col()));
        let inputs: Vec<_> =
            stage.inputs.iter().map(|(slot, edge)| (slot, edge.from, &edge.output, &edge.ty)).collect();
        let sources =
            stage.sources.iter().map(|(name, s)| (name, &s.path, s.named(), &s.missing, place(s.place.as_ref())));
        let origins = stage.origins.iter().map(|(name, o)| (name, &o.layer, place(o.place.as_ref())));
        let values = (&stage.outputs, &stage.params, &stage.operation, &stage.published, stage.program());
        let runs = (&stage.resources, stage.retry, stage.turn, &stage.manifest);
        let (sources, origins): (Vec<_>, Vec<_>) = (sources.collect(), origins.collect());
        format!("{} {} {inputs:?} {values:?} {runs:?} {sources:?} {origins:?}", stage.name, stage.kind.name)
    }

    /// Numbers below a given one, the same in each run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as usize % n
        }

        fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
            all[self.below(all.len())]
        }

        /// A stage, mostly a right one.
        fn stage(&mut self, number: usize) -> String {
            let p = self.below(3);
            let head = match self.below(30) {
                0 => "[ stages.sN ]",
                1 => "[stages.'sN']",
                2..8 => "  [stages.sN] # [x]",
                _ => "[stages.sN]",
            };
            let run = self.one_of(&[
                "run = ['x', '{params.p}']",
                "run = \"\"\"\n[stages.s1]\n\\\"\"\"\"\"",
                "run = '''\n[stages.s2]\n[[''' # '",
                "run = [\n  'x', # of x\n  \"]\", '[', '\\',\n]",
                "run = 'é' # é\n    # and more",
            ]);
            let inputs = match self.below(30) {
                0 => format!("inputs = {{ i = \"s{}\" }}\n", self.below(12)),
                1..15 if number > 0 => format!("inputs = {{ i = \"s{}\" }}\n", self.below(number)),
                _ => String::new(),
            };
            let more = self.one_of(&[
                "params = { p = P }",
                "params.p = P # of p",
                "[stages.sN.params]\n# of p\np = P",
                "params = {\n  p = P,\n}\nwatch = ['src/*.py']\nignore = ['a']",
                "[stages.sN.params]\np = [P, 1]\n[stages.sN.resources]\nthreads = 1",
                "params = { p = P }\ntimeout = '2h'\nretries = 2",
            ]);
            let outputs =
                self.one_of(&["outputs = { o = 'text' }", "outputs.o = 'text'", "outputs = { o = 'metrics' }"]);
            let text = format!("{head}\nkind = 'command'\n{run}\n{outputs}\n{inputs}{more}\n");
            text.replace("sN", &format!("s{number}")).replace('P', &p.to_string())
        }

        fn line(&mut self) -> &'static str {
            self.one_of(&[
                "# heads what follows",
                "",
                "[params]\np = 1",
                "[params]",
                "name = 'x'",
                "[sweep]\n's1.p' = [1]",
                "[stages.s1]",
                "[stages.s1.params]",
                "[stages.s1.params]\nq = 1",
                "[[stages.s1.x]]",
                "[stages]",
                "[stages.s1",
                "stages.s1.x = 1",
                "x = 1",
                "x = ",
                "]",
                "'",
                "\"\"\"",
                "'''",
                "}",
                "extends = 'x'",
                "outputs = { o = 'metrcs' }",
                "n = 99999999999999999999",
                "d = 1979-05-27",
                "\r",
                "\u{feff}",
                "remove = true",
            ])
        }
    }

    #[test]
    fn a_file_in_pieces_is_the_whole() {
        let (mut random, mut same, mut wrong) = (Random(1), 0, 0);
        let path = Path::new("p.toml");
        for _ in 0..4000 {
            let mut text = String::from(random.one_of(&["", "name = 'p'\n", "name = 'p'\n[params]\n", "# p\n"]));
            for number in 0..2 + random.below(8) {
                if random.below(20) == 0 {
                    text += random.line();
                    text += "\n";
                }
                text += &random.stage(number);
            }
            let source = Source { text: Text::new(path, text), digest: crate::files::digest::Digest::of_bytes(b"") };
            let whole = Spec::of_file(path, &source, &[]).and_then(|spec| Pipeline::of(spec, &Overrides::default()));
            match (read(path, &source, 1 + random.below(400), &[]), whole) {
                (Some(part), Ok(whole)) => {
                    same += 1;
                    let all = |p: &Pipeline| p.stages.iter().map(told).collect::<Vec<_>>();
                    assert_eq!(all(&part), all(&whole), "{}", source.text.text);
                    assert_eq!((part.name, part.file, part.files), (whole.name, whole.file, whole.files));
                    assert_eq!(part.warnings, whole.warnings);
                }
                (Some(_), Err(e)) => panic!("{e}, which no piece has:\n{}", source.text.text),
                (None, whole) => wrong += usize::from(whole.is_err()),
            }
        }
        assert!(same > 1000 && wrong > 500, "{same} files in pieces, {wrong} with errors");
    }
}
