//! `make pictures`: draws the pictures of docs/pictures anew.
use anyhow::Result;
use csi_nfs_e2e_pictures::{pictures, repository};

fn main() -> Result<()> {
    std::fs::create_dir_all(repository("docs/pictures"))?;
    for (path, svg) in pictures()? {
        std::fs::write(repository(&path), svg)?;
        println!("{path}");
    }
    Ok(())
}
