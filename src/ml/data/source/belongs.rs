//! Decides by name what belongs to a set of images; one rule for folders, ZIPs and published
//! latents.
//!
//! Programs leave their own files in users' folders: notebook checkpoints, thumbnails, trash,
//! resource forks. Even where they are pictures, they are not images of the set, nor classes. The
//! rule applies below the path that the user gave, not to that path itself, and a file that a
//! `dataset.json` names always belongs.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Extensions of images, in any case. The format itself is detected from the contents.
pub const EXTENSIONS: [&str; 14] =
    ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "pnm", "pbm"];

/// Extensions of pictures in formats that are not supported. A user who has them in a set means
/// them as images.
const UNREAD: [&str; 39] = [
    "apng", "arw", "avif", "avifs", "cr2", "cr3", "dcm", "dds", "dng", "exr", "fits", "hdr", "heic", "heif", "hif",
    "icns", "ico", "j2c", "j2k", "jp2", "jpc", "jpf", "jpx", "jxl", "jxr", "mpo", "nef", "nrw", "orf", "pam", "pcx",
    "pfm", "psd", "qoi", "raf", "rw2", "sgi", "svg", "tga",
];

/// Names that operating systems and file servers give to their own files, in any case. Names that
/// begin with a dot are hidden already.
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

/// Whether a file or folder with this name is hidden or belongs to the system.
pub fn is_hidden(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return name.as_encoded_bytes().starts_with(b".") };
    name.starts_with('.') || SYSTEM.iter().any(|system| name.eq_ignore_ascii_case(system))
}

/// The beginning of a path up to its first hidden component; `None` if there is none.
pub fn hidden_part(name: &Path) -> Option<PathBuf> {
    let is_so = |component: Component| matches!(component, Component::Normal(text) if is_hidden(text));
    let at = name.components().position(is_so)?;
    Some(name.components().take(at + 1).collect())
}

/// Whether the extension is that of a supported image format.
pub fn is_image(name: &Path) -> bool {
    let extension = name.extension().and_then(OsStr::to_str);
    extension.is_some_and(|ext| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(ext)))
}

/// Whether the extension is that of an unsupported image format.
pub fn is_unread(extension: &str) -> bool {
    UNREAD.contains(&extension)
}

/// The extension in lower case. Digits alone, as in `picture.001`, do not count.
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
