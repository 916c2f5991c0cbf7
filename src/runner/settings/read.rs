//! Values of settings as types: paths, sizes and times are texts in a file and in a variable. Does
//! not know which setting has which type.

use crate::text::{path_text, units};
use serde::de::{Deserialize, Deserializer, Error};
use std::path::PathBuf;
use std::time::Duration;

pub(super) fn path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    parsed(from, "a path", path_text::path)
}

pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    parsed(from, "a size", units::bytes)
}

pub(super) fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    parsed(from, "a time", units::duration)
}

pub(super) fn paths<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let path = |text: String| path_text::path(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is no path")));
    texts.into_iter().map(path).collect()
}

fn parsed<'de, D: Deserializer<'de>, T>(
    from: D,
    what: &str,
    parse: fn(&str) -> Option<T>,
) -> Result<Option<T>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    parse(&text).map(Some).ok_or_else(|| D::Error::custom(format!("`{text}` is not {what}")))
}
