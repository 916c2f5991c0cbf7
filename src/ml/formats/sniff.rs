//! What a file is, told from its first bytes and never from its name, so that a message can say it: most files that
//! cannot be read are not damaged but something else.

/// How many bytes [`foreign`] wants to see.
pub(super) const HEAD: usize = 512;

/// What a file that begins with `head` is, when it is none of the formats read here.
pub(super) fn foreign(head: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(head);
    let trimmed = text.trim_start();
    Some(if head.is_empty() {
        "empty"
    } else if text.starts_with("version https://git-lfs") {
        "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"
    } else if trimmed.starts_with('<') {
        "a web page, perhaps of a failed download"
    } else if trimmed.starts_with('{') || trimmed.starts_with('[') {
        "a text in JSON, perhaps the index of a model in several files or the answer to a failed download"
    } else if head.starts_with(b"\x89HDF") {
        "an HDF5 file"
    } else if head.starts_with(b"GGUF") {
        "a GGUF file"
    } else if head.starts_with(b"\x1f\x8b") {
        "a gzip file; unpack it first"
    } else if head.starts_with(b"\x28\xb5\x2f\xfd") {
        "a Zstandard file; unpack it first"
    } else if head.starts_with(b"\xfd7zXZ\0") {
        "an xz file; unpack it first"
    } else if head.starts_with(b"BZh") {
        "a bzip2 file; unpack it first"
    } else if head.starts_with(b"7z\xbc\xaf\x27\x1c") {
        "a 7z archive; unpack it first"
    } else if head.get(257..262) == Some(b"ustar") {
        "a tar archive; unpack it first"
    } else if head.starts_with(b"\x89PNG") || head.starts_with(b"\xff\xd8\xff") {
        "a picture"
    } else {
        return None;
    })
}
