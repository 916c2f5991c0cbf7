//! Paths with braces: the files that they name are in the key, and all of them must be there.

use crate::support::space::Space;

fn tar(name: &str, grey: u8) -> Vec<u8> {
    let mut png = std::io::Cursor::new(vec![]);
    image::RgbImage::from_pixel(2, 2, image::Rgb([grey; 3])).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let mut tar = tar::Builder::new(vec![]);
    for (name, bytes) in [(format!("{name}.png"), png.into_inner()), (format!("{name}.cls"), b"0".to_vec())] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn images(source: &str) -> String {
    format!(
        "name = \"shards\"\n[stages.images]\nkind = \"images\"\n\
         params = {{ source = \"{source}\", resolution = 2, transform = \"none\" }}\n"
    )
}

fn put(space: &Space, shard: &str, grey: u8) {
    let path = space.path(shard);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, tar("0", grey)).unwrap();
}

fn is_cached(space: &Space) -> bool {
    space.plan(&[]).contains("the stage is cached")
}

#[test]
fn shards_lie_beside_the_pipeline() {
    let space = Space::new(&images("t-{00..01}.tar"));
    put(&space, "t-00.tar", 0);
    put(&space, "t-01.tar", 1);
    assert!(space.plan(&[]).contains("1 of 1 stages would run"));
    space.run(&[]).expect(0);
    assert!(is_cached(&space));
    // A file of this very name is meant instead, also by the answer that was stored.
    space.run(&[]).expect(0);
    put(&space, "t-{00..01}.tar", 2);
    assert!(!is_cached(&space));
    let said = space.run(&[]).expect(0);
    assert!(said.stderr.contains("images: started"), "{}", said.stderr);
}

#[test]
fn shards_that_braces_name_are_the_set_and_in_the_key() {
    let space = Space::new(&images("wds/train-{000..002}.tar"));
    for i in 0..3 {
        put(&space, &format!("wds/train-00{i}.tar"), i);
    }
    let said = space.run(&[]).expect(0);
    assert!(said.stdout.contains("images 3") || said.stderr.contains("images 3"), "{}{}", said.stdout, said.stderr);
    assert!(is_cached(&space));
    // Other files in the folder do not count; one of the shards does.
    put(&space, "wds/train-003.tar", 3);
    put(&space, "wds/deep/train-001.tar", 3);
    assert!(is_cached(&space));
    space.run(&[]).expect(0);
    put(&space, "wds/train-001.tar", 9);
    let plan = space.plan(&[]);
    assert!(plan.contains("train-001.tar") && plan.contains("1 of 1 stages would run"), "{plan}");
    put(&space, "wds/train-001.tar", 1);
    // The same shards, named otherwise, or in a folder of their own, are the same set.
    space.write("p.toml", &images("wds/train-{000,001,002}.tar"));
    assert!(is_cached(&space));
    for i in 0..3 {
        put(&space, &format!("alone/train-00{i}.tar"), i);
    }
    space.write("p.toml", &images("alone"));
    assert!(is_cached(&space));
    space.write("p.toml", &images("wds/train-{000..003}.tar"));
    assert!(!is_cached(&space));
}

#[test]
fn a_missing_shard_is_named() {
    let space = Space::new(&images("wds/train-{000..003}.tar"));
    for i in [0, 1] {
        put(&space, &format!("wds/train-00{i}.tar"), i);
    }
    let said = space.run(&[]).expect(2).stderr;
    let first = "error: stage `images`: `source` is missing: no file or folder at `wds/train-002.tar`\n\
                 hint: 2 of the 4 files that `wds/train-{000..003}.tar` stands for are missing\n";
    assert!(space.plain(&said).starts_with(first), "{said}");
    let said = space.erw(&["plan", "p.toml", "--exit-code"]).expect(2).stdout;
    assert!(said.contains("train-002.tar"), "{said}");
    // Too many are no path either; a path of another kind has no braces.
    space.write("p.toml", &images("wds/train-{000..999999}.tar"));
    let said = space.run(&[]).expect(2).stderr;
    assert!(said.contains("hint: the path stands for more than 100000 names\n"), "{said}");
    let weights =
        "[stages.w]\nkind = \"weights\"\nparams = { as = \"stats\", source = \"wds/train-{000..001}.tar\" }\n";
    space.write("p.toml", weights);
    let said = space.run(&[]).expect(2).stderr;
    assert!(said.contains("no file or folder at `") && said.contains("train-{000..001}.tar`\n"), "{said}");
}
