//! The layer of environment variables: those of the table of settings, and no others with the same
//! prefix, which stages and tests use for themselves. Does not know files.

use super::keys::{KEYS, Key, Wants};
use crate::text::path_text;
use erw_base::error::{Error, Result};
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider, Source};
use std::ffi::OsString;
use std::path::Path;

/// The name of this layer, by which its values are recognised.
pub(super) const NAME: &str = "variables";

/// Values stated by variables. They hold in every profile.
pub(super) struct Variables(Dict);

impl Variables {
    /// # Errors
    /// When a variable has a wrong value; the error names it.
    pub(super) fn read(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let mut values = Dict::new();
        for key in &KEYS {
            if let Some(value) = get(key.variable).map(|raw| value(key, raw)).transpose()?.flatten() {
                values.insert(key.name.into(), value);
            }
        }
        Ok(Self(values))
    }
}

/// An empty variable is as good as none, but for the remote, which it switches off.
fn value(key: &Key, raw: OsString) -> Result<Option<Value>> {
    match (raw.to_str(), key.wants) {
        (Some(""), Wants::Address) => Ok(Some(Value::from(""))),
        (Some(""), _) => Ok(None),
        (Some(text), _) => key.of_text(text).map(Some),
        // A path may have any bytes.
        (None, Wants::Path) => Ok(Some(Value::from(path_text::text(Path::new(&raw))))),
        (None, _) => Err(Error::usage(format!("{} is not UTF-8", key.variable))),
    }
}

impl Provider for Variables {
    fn metadata(&self) -> Metadata {
        Metadata::from(NAME, Source::Custom(NAME.into()))
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Global.collect(self.0.clone()))
    }
}
