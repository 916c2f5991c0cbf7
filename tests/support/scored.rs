//! A pipeline of two quick stages with results: `pack` counts images, 2 a `limit`; `score` copies,
//! and fails when told so.

use super::space::Space;

pub const SCORED: &str = r#"name = "scored"
[stages.pack]
kind = "images"
params = { source = "img", resolution = 2, transform = "none", limit = 1 }
[stages.score]
kind = "command"
run = "echo score {params.seed} >> ran; [ {params.seed} != 9 ] && cp -r {inputs.x} {outputs.o}"
inputs = { x = "pack" }
outputs = { o = "copy" }
params = { seed = 0 }
resources = { threads = 1 }
"#;

/// `SCORED` with more text, and the images: two classes of four.
pub fn scored(more: &str) -> Space {
    let space = Space::new(&format!("{SCORED}{more}"));
    for class in ["a", "b"] {
        std::fs::create_dir_all(space.path(&format!("img/{class}"))).unwrap();
        for i in 0..4u8 {
            let pixels = image::RgbImage::from_pixel(2, 2, image::Rgb([i, class.as_bytes()[0], 7]));
            pixels.save(space.path(&format!("img/{class}/{i}.png"))).unwrap();
        }
    }
    space
}
