//! Single stages, run in this process as a worker runs them, in a directory of its own.

use erw::error::Result;
use erw::runner::kind::StageKind;
use erw::runner::kind::attempt::{Attempt, Job, RESULTS};
use erw::runner::kind::field::{Field, Params};
use erw::runner::kind::manifest::Manifest;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A folder with inputs and the work folders of stages.
pub struct Bench {
    dir: tempfile::TempDir,
    ears: RefCell<BTreeMap<String, Ear>>,
}

/// Hears what a stage says, and asks it to stop at its first checkpoint when told to.
#[derive(Clone, Default)]
pub struct Ear {
    pub heard: Arc<Mutex<Vec<u8>>>,
    pub stop_at_checkpoint: bool,
    pub stop: Arc<AtomicBool>,
}

impl Ear {
    pub fn text(&self) -> String {
        String::from_utf8(self.heard.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.stop_at_checkpoint && String::from_utf8_lossy(bytes).contains("checkpoint") {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.heard.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Parameters and operation values: the manifest's defaults under what is given, all of which it
/// must know.
pub fn values(kind: &StageKind, given: &Value) -> (Params, Params) {
    let manifest = Manifest::parse(kind.name, kind.manifest).unwrap();
    let given = given.as_object().unwrap();
    for name in given.keys() {
        assert!(manifest.field(name).is_some(), "`{}` has no `{name}`", kind.name);
    }
    let table = |fields: &[Field]| -> Params {
        let value = |f: &Field| given.get(&f.name).or(f.default.as_ref()).cloned().unwrap_or(Value::Null);
        fields.iter().map(|f| (f.name.clone(), value(f))).collect()
    };
    (table(&manifest.params), table(&manifest.operation))
}

impl Bench {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), ears: RefCell::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Checks and runs `kind` in folder `name`, heard by `ear`; another attempt finds the
    /// checkpoints of the one before.
    pub fn attempt(
        &self,
        name: &str,
        kind: &StageKind,
        inputs: &[(&str, &Path)],
        given: &Value,
        ear: &Ear,
    ) -> Result<()> {
        let (params, operation) = values(kind, given);
        let slots: Vec<&str> = inputs.iter().map(|(slot, _)| *slot).collect();
        (kind.check)(&params, &operation, &slots)?;
        let work_dir = self.path(name);
        let outputs = Manifest::parse(kind.name, kind.manifest)?.outputs;
        let outputs: BTreeMap<String, String> = outputs.into_iter().map(|o| (o.name, o.ty)).collect();
        let _ = std::fs::remove_dir_all(work_dir.join("attempt-1"));
        outputs.keys().for_each(|name| std::fs::create_dir_all(work_dir.join("attempt-1").join(name)).unwrap());
        std::fs::create_dir_all(work_dir.join("checkpoints")).unwrap();
        let job = Job {
            stage: name.into(),
            kind: kind.name.into(),
            key: "key".into(),
            params,
            operation,
            inputs: inputs.iter().map(|(slot, path)| ((*slot).to_string(), path.to_path_buf())).collect(),
            outputs,
            work_dir,
            attempt: 1,
            cache: self.dir.path().into(),
            unverified: vec![],
            detached: false,
            threads: 2,
            ranks: 1,
            numbering: Default::default(),
            device: "cpu".into(),
            command: None,
            pipeline: String::new(),
            pipeline_file: self.dir.path().into(),
            pipeline_dir: self.dir.path().into(),
            downloads: self.dir.path().join("downloads"),
        };
        let attempt = Attempt::new(job, Box::new(ear.clone()), ear.stop.clone());
        (kind.run)(&attempt)?;
        attempt.write_results()
    }

    /// [`Bench::attempt`], not disturbed. Returns the folder of the first output.
    pub fn run(&self, name: &str, kind: &StageKind, inputs: &[(&str, &Path)], given: Value) -> Result<PathBuf> {
        let ear = Ear::default();
        self.ears.borrow_mut().insert(name.into(), ear.clone());
        self.attempt(name, kind, inputs, &given, &ear)?;
        let manifest = Manifest::parse(kind.name, kind.manifest)?;
        Ok(self.path(name).join("attempt-1").join(&manifest.outputs[0].name))
    }

    /// All that [`Bench::run`] heard in folder `name`.
    pub fn said(&self, name: &str) -> String {
        self.ears.borrow().get(name).map(Ear::text).unwrap_or_default()
    }

    /// The result of this name that a stage in folder `name` ended with.
    pub fn result(&self, name: &str, result: &str) -> Option<f64> {
        let text = std::fs::read(self.path(name).join(RESULTS)).ok()?;
        serde_json::from_slice::<Value>(&text).unwrap()[result].as_f64()
    }
}
