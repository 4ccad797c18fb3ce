//! The steps that an export carries out in order (`Fs::in_order`).

use crate::nfs::name::Name;

/// A step. A place is a directory and a name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<H> {
    /// `Fs::mkdir`.
    Mkdir { at: (H, Name), mode: u32 },
    /// Creates a regular file with that content at `staged`, and gives it the place `to`: `Fs::write_file` and
    /// `Fs::rename`. Fails with `Status::Exist` if something is at `staged`. After another failure, a part of the file
    /// may be there.
    Replace { staged: (H, Name), to: (H, Name), mode: u32, content: Vec<u8> },
    /// `Fs::rename`.
    Rename { from: (H, Name), to: (H, Name) },
    /// `Fs::remove` of one name.
    Remove { at: (H, Name) },
}

impl<H> Step<H> {
    /// The same on handles of another kind; `None` if one of its handles has no counterpart.
    pub fn on<G>(&self, handle: impl Fn(&H) -> Option<G>) -> Option<Step<G>> {
        let place = |(dir, name): &(H, Name)| Some((handle(dir)?, name.clone()));
        Some(match self {
            Self::Mkdir { at, mode } => Step::Mkdir { at: place(at)?, mode: *mode },
            Self::Replace { staged, to, mode, content } => {
                Step::Replace { staged: place(staged)?, to: place(to)?, mode: *mode, content: content.clone() }
            }
            Self::Rename { from, to } => Step::Rename { from: place(from)?, to: place(to)? },
            Self::Remove { at } => Step::Remove { at: place(at)? },
        })
    }
}
