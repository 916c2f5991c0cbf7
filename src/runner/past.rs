//! The records of a cache, found by what they are of. A run of many thousand stages asks for each of them what came
//! before; to go through all records each time would cost the square of their number. Does not judge what it finds.

use super::actions::{self, Record};
use super::graph::Stage;
use super::key::canonical;
use super::reason::program;
use super::store::Store;
use crate::error::Result;
use std::collections::HashMap;

/// So many of the latest records of a kind, or of a program, stand for all of them.
const KIN: usize = 50;

/// Every readable record, as of one moment.
pub struct Past {
    records: Vec<Record>,
    /// By pipeline and stage.
    own: HashMap<(String, String), Vec<usize>>,
    /// By kind, and by program for commands, the latest last.
    kin: HashMap<(String, Option<String>), Vec<usize>>,
}

impl Past {
    /// Damaged records are the business of whoever asks for their keys.
    pub fn read(store: &Store) -> Result<Self> {
        let mut records = actions::all(store)?.0;
        records.sort_by(|a, b| a.created.cmp(&b.created));
        let mut past = Self { records, own: HashMap::new(), kin: HashMap::new() };
        for (i, record) in past.records.iter().enumerate() {
            past.own.entry((record.pipeline.clone(), record.stage.clone())).or_default().push(i);
            let program = program(&record.key_text).map(str::to_string);
            past.kin.entry((record.kind.clone(), program)).or_default().push(i);
        }
        Ok(past)
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Those worth comparing with: of the same stage; without any, the latest of the same kind, or of the same program.
    pub fn akin(&self, pipeline: &str, stage: &Stage) -> Vec<&Record> {
        let own = self.own.get(&(pipeline.to_string(), stage.name.clone())).map_or(&[][..], Vec::as_slice);
        let own = own.iter().map(|i| &self.records[*i]).filter(|r| r.kind == stage.kind.name);
        let own: Vec<&Record> = own.collect();
        if !own.is_empty() {
            return own;
        }
        let program = stage.command.as_ref().map(|c| canonical(&c.run.clone().into()));
        let kin = self.kin.get(&(stage.kind.name.to_string(), program)).map_or(&[][..], Vec::as_slice);
        kin.iter().rev().take(KIN).map(|i| &self.records[*i]).collect()
    }
}

impl Past {
    /// Seconds that the last attempt of this stage took, else the last of its kin. A resumed attempt tells only what was
    /// left to do, so it counts where there is no other.
    pub fn seconds(&self, pipeline: &str, stage: &Stage) -> Option<f64> {
        let latest = self.akin(pipeline, stage).into_iter().max_by_key(|r| (r.resumed.is_none(), &r.created));
        latest.map(|r| r.seconds)
    }
}
