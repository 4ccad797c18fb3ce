//! Small files of the driver, which are read and replaced as a whole.

use crate::error::Result;
use crate::export::fs::{Attr, Fs, Name, OpenMode, Status, Step};
use crate::export::{Export, SMALL};

/// How often a small file is read again after ESTALE, which means that the file was replaced meanwhile. This happens if
/// the reader does not hold the file's lock.
const REPLACED: usize = 4;

/// The mode of small files.
const MODE: u32 = 0o600;

impl<F: Fs> Export<F> {
    /// The content of a small file of the driver; `None` if there is no such file.
    pub async fn read_small(&self, dir: &F::Handle, name: &Name) -> Result<Option<Vec<u8>>> {
        let mut read = self.fs.read_file(dir, name, SMALL).await;
        for _ in 0..REPLACED {
            if !matches!(read, Err(Status::Stale)) {
                break;
            }
            read = self.fs.read_file(dir, name, SMALL).await;
        }
        match read {
            Ok(content) => Ok(Some(content)),
            Err(Status::NoEnt) => Ok(None),
            Err(status) => Err(self.failed(format!("reading `{name}`"), status)),
        }
    }

    /// The open file with its content; `None` if there is no such file. If it is replaced meanwhile, the new one is
    /// returned.
    pub async fn open_small(&self, dir: &F::Handle, name: &Name) -> Result<Option<(F::Handle, Attr, Vec<u8>)>> {
        let failed = |status| self.failed(format!("reading `{name}`"), status);
        for _ in 0..REPLACED {
            let (file, attr) = match self.fs.open(dir, name, OpenMode::Read).await {
                Err(Status::NoEnt) => return Ok(None),
                opened => opened.map_err(failed)?,
            };
            if attr.size > SMALL as u64 {
                return Err(failed(Status::FBig));
            }
            match self.fs.read(&file, 0, SMALL).await {
                Err(Status::Stale) => {}
                content => return Ok(Some((file, attr, content.map_err(failed)?))),
            }
        }
        Err(failed(Status::Stale))
    }

    /// Writes a small file of the driver atomically: in staging, committed, then renamed into place. A reader finds the
    /// old content or the new, never a part. The caller holds the lock of the volume that the file is named after.
    pub async fn write_small(&self, dir: &F::Handle, name: &Name, content: Vec<u8>) -> Result<()> {
        let layout = self.make_layout().await?;
        self.replace_small((&layout.staging, name), (dir, name), MODE, content).await
    }

    /// Like [`Self::write_small`], for a file that is not named after the lock that the caller holds. In staging it is
    /// named after `lock`.
    pub async fn write_small_under(&self, lock: &str, dir: &F::Handle, name: &Name, content: Vec<u8>) -> Result<()> {
        let (staging, staged) = self.staged_under(lock).await?;
        self.replace_small((&staging, &staged), (dir, name), MODE, content).await
    }

    /// The step that does what [`Self::write_small_under`] does, if nothing is in its way.
    pub async fn step_under(
        &self,
        lock: &str,
        dir: &F::Handle,
        name: Name,
        content: Vec<u8>,
    ) -> Result<Step<F::Handle>> {
        Ok(Step::Replace { staged: self.staged_under(lock).await?, to: (dir.clone(), name), mode: MODE, content })
    }

    async fn staged_under(&self, lock: &str) -> Result<(F::Handle, Name)> {
        let layout = self.make_layout().await?;
        let staged =
            Name::new(format!("{lock}.json")).map_err(|e| self.failed(format!("naming `{lock}` in staging"), e))?;
        Ok((layout.staging.clone(), staged))
    }

    /// Like [`Self::write_small`], staged at `staged` (a directory and a name in it), where nobody else writes at the
    /// same time.
    pub async fn replace_small(
        &self,
        staged: (&F::Handle, &Name),
        (dir, name): (&F::Handle, &Name),
        mode: u32,
        content: Vec<u8>,
    ) -> Result<()> {
        let (staging, half) = staged;
        let (staged, to) = ((staging.clone(), half.clone()), (dir.clone(), name.clone()));
        let replace = [Step::Replace { staged, to, mode, content }];
        let write = async {
            match self.fs.in_order(&replace).await.1 {
                // A process that crashed here left the file, so nobody writes to it now.
                Err(Status::Exist) => {
                    self.fs.unlink(staging, half).await?;
                    self.fs.in_order(&replace).await.1
                }
                replaced => replaced,
            }
        };
        let written = write.await;
        if let Err(status) = written
            && !status.is_unanswered()
            && let Err(left) = self.fs.unlink(staging, half).await
        {
            // The export may be full, for example.
            tracing::debug!(name = %half, %left, "a half-written file stays in staging and will be swept later");
        }
        written.map_err(|status| self.failed(format!("writing `{name}`"), status))
    }
}
