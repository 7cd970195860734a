//! What is refused before anything is asked.

use clap::Parser;

use super::*;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn options(flags: &str) -> Options {
    let args = ["eval", "book.txt"].into_iter().chain(flags.split_whitespace());
    Cli::parse_from(args).options
}

fn lengths(flags: &str, context_tokens: u32) -> Result<Lengths, Fault> {
    Lengths::of(&options(flags), &v1::Model { name: "deep".into(), context_tokens, ..Default::default() })
}

#[test]
fn lengths_that_are_left_out_fit_the_context() {
    let fitting = |context| lengths("", context).unwrap();
    assert_eq!(fitting(16384), Lengths { window: 2048, distances: vec![128, 256, 512, 1024, 2048] });
    assert_eq!(fitting(1024), Lengths { window: 1024, distances: vec![128, 256, 512] });
    assert_eq!(fitting(256), Lengths { window: 256, distances: vec![] });
    // The text of a distance of 2048 may have 2088 tokens.
    assert_eq!(fitting(2048 + 256 + 40).distances.last(), Some(&1024));
    assert_eq!(fitting(2048 + 256 + 41).distances.last(), Some(&2048));
}

#[test]
fn lengths_that_are_given_must_fit_the_context() {
    let given = lengths("--window 4096 --distances 512,128,512", 4096).unwrap();
    assert_eq!(given, Lengths { window: 4096, distances: vec![128, 512] });
    assert_eq!((given.wanted(3), given.wanted(0)), (3 * 4096, 512));
    for flags in ["--window 4097", "--distances 128,3765"] {
        let fault = lengths(flags, 4096).unwrap_err();
        assert_eq!(fault.exit, Exit::Usage);
        let text = fault.to_string();
        assert!(text.contains("deep has a context of 4096 tokens") && text.starts_with("--"), "{text}");
    }
    assert!(lengths("--distances 3764", 4096).is_ok());
}

#[test]
fn a_context_without_room_for_a_window_is_said() {
    let fault = lengths("", 127).unwrap_err();
    assert_eq!(fault.exit, Exit::Usage);
    assert_eq!(fault.to_string(), "deep has a context of 127 tokens; the shortest window is 128");
    assert!(lengths("", 128).is_ok());
}

#[test]
fn no_needles_have_no_distances() {
    assert!(lengths("--needles 0", 4096).unwrap().distances.is_empty());
}

#[test]
fn flags_out_of_range_are_refused() {
    let far = ["--windows 10001", "--needles 10001", "--concurrency 1025"];
    let near = ["--window 127", "--windows 0", "--distances 128,x", "--concurrency 0", "--others 81"];
    for flags in near.into_iter().chain(far) {
        assert!(Cli::try_parse_from(["eval", "book.txt"].into_iter().chain(flags.split(' '))).is_err(), "{flags}");
    }
    assert!(Cli::try_parse_from(["eval"]).is_err());
}

#[test]
fn a_short_text_says_how_long_it_is_and_what_helps() {
    let fault = too_short(Path::new("book.txt"), 1499, 1, 2048);
    assert_eq!(fault.exit, Exit::Data);
    let text = fault.to_string();
    assert!(text.contains("book.txt has 1499 tokens") && text.ends_with("or --window 1500"), "{text}");
    assert!(too_short(Path::new("book.txt"), 9, 1, 2048).to_string().ends_with("the shortest window is 128"));
}

#[test]
fn a_file_that_is_no_text_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latin1.txt");
    assert_eq!(read(&path).unwrap_err().exit, Exit::NoInput);
    std::fs::write(&path, b"caf\xe9 x").unwrap();
    let fault = read(&path).unwrap_err();
    assert_eq!(fault.exit, Exit::Data);
    assert!(fault.to_string().contains("latin1.txt is not UTF-8: byte 3"), "{fault}");
}
