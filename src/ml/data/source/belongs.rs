//! What belongs to a set of images, told by names alone; one rule for folders, ZIPs and ready latents.
//!
//! Programs leave files of their own in people's folders: copies of notebooks, thumbnails, bins, resource forks. They are
//! no images of the set even where they are pictures, and no classes. A name that a user wrote down is taken as it is: the
//! rule is for names below the one that was given, and a `dataset.json` that names a file knows better.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// What the names of images end with, without regard to case. The format itself is told from the contents.
pub const EXTENSIONS: [&str; 14] =
    ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "pnm", "pbm"];

/// What the names of pictures end with whose formats are not read: who has them in a set means them as images.
const UNREAD: [&str; 39] = [
    "apng", "arw", "avif", "avifs", "cr2", "cr3", "dcm", "dds", "dng", "exr", "fits", "hdr", "heic", "heif", "hif",
    "icns", "ico", "j2c", "j2k", "jp2", "jpc", "jpf", "jpx", "jxl", "jxr", "mpo", "nef", "nrw", "orf", "pam", "pcx",
    "pfm", "psd", "qoi", "raf", "rw2", "sgi", "svg", "tga",
];

/// Names that systems and their servers give to what is theirs, without regard to case. What begins with a dot is hidden
/// already.
const SYSTEM: [&str; 20] = [
    "$RECYCLE.BIN",
    "#recycle",
    "#snapshot",
    "@__thumb",
    "@eaDir",
    "@Recently-Snapshot",
    "@Recycle",
    "@tmp",
    "__MACOSX",
    "__pycache__",
    "desktop.ini",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "Icon\r",
    "lost+found",
    "Network Trash Folder",
    "RECYCLER",
    "System Volume Information",
    "Temporary Items",
    "Thumbs.db",
];

/// Whether a file or folder of this name is hidden, or the system's.
pub fn is_hidden(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return name.as_encoded_bytes().starts_with(b".") };
    name.starts_with('.') || SYSTEM.iter().any(|system| name.eq_ignore_ascii_case(system))
}

/// The part of a name, from its beginning, that ends with the first hidden component; `None` if there is none.
pub fn hidden_part(name: &Path) -> Option<PathBuf> {
    let mut part = PathBuf::new();
    for component in name.components() {
        part.push(component);
        if let Component::Normal(text) = component
            && is_hidden(text)
        {
            return Some(part);
        }
    }
    None
}

/// Whether a file is an image of a format that is read, by its name's end.
pub fn is_image(name: &Path) -> bool {
    extension(name).is_some_and(|ext| EXTENSIONS.contains(&ext.as_str()))
}

/// Whether it is a picture of a format that is not.
pub fn is_unread(extension: &str) -> bool {
    UNREAD.contains(&extension)
}

/// What a name ends with, in lower case. Digits alone, as in `picture.001`, are no format.
pub fn extension(name: &Path) -> Option<String> {
    let ext = name.extension()?.to_str()?.to_lowercase();
    (!ext.is_empty() && !ext.bytes().all(|b| b.is_ascii_digit())).then_some(ext)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systems_leave_behind_is_told_from_classes() {
        for name in [
            ".git",
            ".svn",
            ".DS_Store",
            "._x.png",
            ".ipynb_checkpoints",
            ".Trash-1000",
            ".thumbnails",
            ".AppleDouble",
            "Thumbs.db",
            "THUMBS.DB",
            "@eaDir",
            "__MACOSX",
            "lost+found",
            "$RECYCLE.BIN",
            "$Recycle.Bin",
            "desktop.ini",
            "System Volume Information",
            "__pycache__",
            "#recycle",
            "Icon\r",
            "..x",
        ] {
            assert!(is_hidden(OsStr::new(name)), "{name}");
        }
        for name in
            ["cat", "_x", "-dash", "$HOME", "@home", "#1", "recycling", "macosx", "Icon", "trash", "日本", "a.b"]
        {
            assert!(!is_hidden(OsStr::new(name)), "{name}");
        }
        assert_eq!(hidden_part(Path::new("a/.b/c/.d")), Some("a/.b".into()));
        assert_eq!(hidden_part(Path::new("a/b.png")), None);
    }

    #[test]
    fn names_tell_images_without_regard_to_case() {
        for name in ["a.PNG", "b.Jpg", "c.JPEG", "d.jfif", "e.TIFF", "f.gif", "g.pbm", "x.tar.png"] {
            assert!(is_image(Path::new(name)), "{name}");
        }
        for name in ["png", "a.txt", "b.avif", "c.png~", "d.", "e.png.part", "00000001", "f.001"] {
            assert!(!is_image(Path::new(name)), "{name}");
        }
        assert!(is_unread("avif") && !is_unread("txt"));
        assert_eq!((extension(Path::new("a.001")), extension(Path::new("b"))), (None, None));
    }
}
