//! The recipe of the bundled model: its corpus comes out as it did when the model was trained.

use anyhow::Result;
use hadal_tests::{process, root};

/// Of a small corpus of the same generators and texts, by sha256.
const CORPUS: &str = "\
train c8cff0d0ce303b82308828a44eb01fa527106fe7936606ab94d21cf6682700b4
val 0f282ff1abc8dd72c2d5664c66ef85eacd651ede4760acad77c672c1d21efa37
";

#[tokio::test(flavor = "multi_thread")]
async fn the_corpus_is_the_one_that_the_bundled_model_learned_from() -> Result<()> {
    let recipe = root().join("models/sample/recipe").display().to_string();
    assert_eq!(process::python("recipe.py", &[&recipe]).await?, CORPUS);
    Ok(())
}
