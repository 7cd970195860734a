//! Writes the checkpoints that the loader's target begins with into a folder.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "corpus/loader".into()));
    std::fs::create_dir_all(&folder)?;
    for (number, seed) in hadal_model::fuzz::seeds().iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}
