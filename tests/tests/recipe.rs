//! The recipe of the bundled model: its corpus is the same wherever it is made, and has nothing of the held-out text.

use anyhow::Result;
use hadal_tests::{process, root};

/// Of a small corpus of the same generators and texts, by sha256. To renew them after a change of the corpus that is
/// meant, put here what the failed test found.
const CORPUS: &str = "\
train c8cff0d0ce303b82308828a44eb01fa527106fe7936606ab94d21cf6682700b4
val 0f282ff1abc8dd72c2d5664c66ef85eacd651ede4760acad77c672c1d21efa37
";

#[tokio::test(flavor = "multi_thread")]
async fn the_corpus_is_the_same_to_the_byte() -> Result<()> {
    let recipe = root().join("models/sample/recipe").display().to_string();
    let held_out = root().join("tests/held-out.txt").display().to_string();
    assert_eq!(process::python("recipe.py", &[&recipe, &held_out]).await?, CORPUS);
    Ok(())
}
