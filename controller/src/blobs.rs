//! Large objects by their SHA-256: artifacts, manifests, metadata files, states of federated jobs.
//!
//! A blob is complete and right, or it is not there: its bytes are hashed while they arrive, and it gets its name last. Its time of
//! change is when it was last stored or held; what collects blobs goes by that.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fieldfare_fleet::Timestamp;
use fieldfare_release::{ArtifactError, ArtifactVerifier, Sha256Digest};
use fieldfare_tls::TimeSource;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::{
    Error as ObjectError, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload,
};

use crate::limits::{BLOB_BYTES_MAX, BLOB_PART_BYTES};

/// The blobs of one tenant.
#[derive(Clone, Debug)]
pub struct Blobs {
    objects: Arc<dyn ObjectStore>,
    folder: PathBuf,
    clock: TimeSource,
    /// Held while the time of a blob is set, and while it is looked at and the blob removed for it.
    times: Arc<Mutex<()>>,
}

/// A file among the blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its length, in bytes.
    pub length: u64,
    /// When it was last stored or held.
    pub touched: Timestamp,
}

/// What lies among the blobs.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The blobs.
    pub blobs: BTreeMap<Sha256Digest, Stored>,
    /// Parts of uploads that their process did not live to finish or to remove, or that are under way.
    pub unfinished: BTreeMap<PathBuf, Stored>,
}

/// Why a blob was not stored or not found.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Longer than any blob may be.
    #[error("the blob has {announced} bytes, more than the limit of {BLOB_BYTES_MAX}")]
    TooLong {
        /// The length that was announced.
        announced: u64,
    },
    /// The bytes are not those that were announced.
    #[error("the bytes are not the announced blob")]
    Mismatch(#[from] ArtifactError),
    /// The sender stopped in the middle.
    #[error("the upload broke off after {received} bytes")]
    BrokenOff {
        /// Bytes that arrived.
        received: u64,
        /// What the connection says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object store failed.
    #[error("the object store failed")]
    Objects(#[source] ObjectError),
    /// The folder of the blobs cannot be read or changed.
    #[error("the folder of the blobs")]
    Folder(#[source] io::Error),
}

fn path(sha256: &Sha256Digest) -> object_store::path::Path {
    let hex = sha256.to_string();
    // Two levels, since some file systems slow down with a million files in one folder.
    object_store::path::Path::from(format!("sha256/{}/{hex}", &hex[..2]))
}

impl Blobs {
    /// The blobs in a local folder, which must exist. What is acknowledged is synced to disk.
    ///
    /// # Errors
    /// The folder is not there, or is none.
    pub fn local(folder: &Path, clock: TimeSource) -> Result<Self, BlobError> {
        let objects = LocalFileSystem::new_with_prefix(folder).map_err(BlobError::Objects)?;
        Ok(Self {
            objects: Arc::new(objects.with_fsync(true)),
            folder: folder.to_owned(),
            clock,
            times: Arc::default(),
        })
    }

    /// The length of a blob for somebody who is about to name it, or who stores it again; nothing if it is not there. From now on it
    /// counts as new.
    ///
    /// # Errors
    /// [`BlobError::Folder`]: the system refuses.
    pub async fn hold(&self, sha256: &Sha256Digest) -> Result<Option<u64>, BlobError> {
        let (file, times) = (self.folder.join(path(sha256).as_ref()), Arc::clone(&self.times));
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(self.clock.now().unix_ms());
        let held = blocking(move || {
            let _held = times.lock().unwrap_or_else(PoisonError::into_inner);
            let file = match File::open(file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            file.set_modified(now)?;
            file.metadata().map(|about| Some(about.len()))
        });
        held.await
    }

    /// Everything that lies here.
    ///
    /// # Errors
    /// [`BlobError::Folder`]: the system refuses.
    pub async fn inventory(&self) -> Result<Inventory, BlobError> {
        let folder = self.folder.join("sha256");
        blocking(move || {
            let mut found = Inventory::default();
            for part in entries(&folder)? {
                for (path, about) in entries(&part.0)? {
                    let (length, touched) = (about.len(), touched(&about)?);
                    let stored = Stored { length, touched };
                    let name = path.file_name().and_then(|name| name.to_str());
                    match name.and_then(|name| name.parse().ok()) {
                        Some(sha256) => drop(found.blobs.insert(sha256, stored)),
                        None => drop(found.unfinished.insert(path, stored)),
                    }
                }
            }
            Ok(found)
        })
        .await
    }

    /// Removes a blob, unless it was stored or held after `before`. Tells whether it did.
    ///
    /// # Errors
    /// [`BlobError::Folder`]: the system refuses.
    pub async fn remove(&self, sha256: &Sha256Digest, before: Timestamp) -> Result<bool, BlobError> {
        self.remove_file(self.folder.join(path(sha256).as_ref()), before).await
    }

    /// As [`Blobs::remove`], for a part of an upload that [`Blobs::inventory`] told of.
    ///
    /// # Errors
    /// [`BlobError::Folder`]: the system refuses.
    pub async fn remove_unfinished(&self, file: &Path, before: Timestamp) -> Result<bool, BlobError> {
        self.remove_file(file.to_owned(), before).await
    }

    async fn remove_file(&self, file: PathBuf, before: Timestamp) -> Result<bool, BlobError> {
        let times = Arc::clone(&self.times);
        let removed = blocking(move || {
            let _held = times.lock().unwrap_or_else(PoisonError::into_inner);
            if touched(&fs::metadata(&file)?)? > before {
                return Ok(false);
            }
            fs::remove_file(&file).map(|()| true)
        });
        match removed.await {
            Err(BlobError::Folder(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed,
        }
    }

    /// The length of a blob; nothing if it is not there.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn length(&self, sha256: &Sha256Digest) -> Result<Option<u64>, BlobError> {
        match self.objects.head(&path(sha256)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(BlobError::Objects(error)),
        }
    }

    /// Stores the bytes of a stream as the blob that they must be. Storing a blob that is there reads nothing and is
    /// successful: equal names are equal bytes.
    ///
    /// # Errors
    /// [`BlobError`]; the blob is as it was before.
    pub async fn put_stream<E>(
        &self,
        sha256: Sha256Digest,
        length: u64,
        bytes: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(), BlobError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if length > BLOB_BYTES_MAX {
            return Err(BlobError::TooLong { announced: length });
        }
        if self.hold(&sha256).await? == Some(length) {
            return Ok(());
        }
        let mut upload = self
            .objects
            .put_multipart(&path(&sha256))
            .await
            .map_err(BlobError::Objects)?;
        match receive(upload.as_mut(), ArtifactVerifier::new(length, sha256), bytes).await {
            Ok(()) => {
                upload.complete().await.map_err(BlobError::Objects)?;
                Ok(())
            }
            Err(error) => {
                // The parts are in a temporary place without a name; leaving them there costs disk and nothing else.
                if let Err(abort) = upload.abort().await {
                    tracing::warn!(error = %abort, "the parts of a refused upload were not removed");
                }
                Err(error)
            }
        }
    }

    /// Stores bytes, and tells their digest.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Sha256Digest, BlobError> {
        let sha256 = Sha256Digest::of(&bytes);
        if self.hold(&sha256).await?.is_none() {
            self.objects
                .put(&path(&sha256), PutPayload::from(bytes))
                .await
                .map_err(BlobError::Objects)?;
        }
        Ok(sha256)
    }

    /// A whole blob of at most `limit` bytes, verified; nothing if it is not there.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn read(&self, sha256: &Sha256Digest, limit: u64) -> Result<Option<Bytes>, BlobError> {
        let Some(length) = self.length(sha256).await? else {
            return Ok(None);
        };
        if length > limit {
            return Err(BlobError::TooLong { announced: length });
        }
        let found = self.objects.get(&path(sha256)).await.map_err(BlobError::Objects)?;
        let bytes = found.bytes().await.map_err(BlobError::Objects)?;
        ArtifactVerifier::check(length, *sha256, &bytes)?;
        Ok(Some(bytes))
    }

    /// The bytes of a range of a blob that is there. The reader verifies the whole: it knows the digest.
    pub async fn stream(
        &self,
        sha256: &Sha256Digest,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, BlobError> {
        if range.is_empty() {
            return Ok(futures_util::stream::empty().boxed());
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let found = self
            .objects
            .get_opts(&path(sha256), options)
            .await
            .map_err(BlobError::Objects)?;
        Ok(found.into_stream())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, BlobError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(io::Error::other(panic)))
        .map_err(BlobError::Folder)
}

/// What lies in a folder; nothing in one that is not there, nor what vanishes meanwhile.
fn entries(folder: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let listing = match fs::read_dir(folder) {
        Err(error) if gone(&error) => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry?;
        match entry.metadata() {
            Err(error) if gone(&error) => {}
            about => found.push((entry.path(), about?)),
        }
    }
    Ok(found)
}

fn touched(about: &fs::Metadata) -> io::Result<Timestamp> {
    let since = about
        .modified()?
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Timestamp::from_unix_ms(
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    ))
}

async fn receive<E>(
    upload: &mut dyn MultipartUpload,
    mut verifier: ArtifactVerifier,
    bytes: impl Stream<Item = Result<Bytes, E>>,
) -> Result<(), BlobError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut bytes = std::pin::pin!(bytes);
    let mut part = Vec::new();
    loop {
        let received = verifier.received();
        let broken = |source: E| BlobError::BrokenOff {
            received,
            source: source.into(),
        };
        let Some(chunk) = bytes.try_next().await.map_err(broken)? else {
            break;
        };
        verifier.update(&chunk)?;
        part.extend_from_slice(&chunk);
        if part.len() >= BLOB_PART_BYTES {
            upload
                .put_part(std::mem::take(&mut part).into())
                .await
                .map_err(BlobError::Objects)?;
        }
    }
    verifier.finish()?;
    upload.put_part(part.into()).await.map_err(BlobError::Objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(bytes: &[u8]) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + use<> {
        let chunks: Vec<_> = bytes.chunks(3).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        futures_util::stream::iter(chunks)
    }

    #[tokio::test]
    async fn only_the_announced_bytes_become_a_blob() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path(), crate::clock::system()).unwrap();
        let good = b"weights of a model";
        let sha256 = Sha256Digest::of(good);
        let length = good.len() as u64;
        let cases: [(&[u8], &str); 3] = [
            (b"weights of a mode", "are listed"),
            (b"weights of a model!", "more than"),
            (b"weights of a m0del", "digest"),
        ];
        for (bytes, why) in cases {
            let error = blobs.put_stream(sha256, length, pieces(bytes)).await.unwrap_err();
            let text = crate::refusal::chain(&error);
            assert!(matches!(error, BlobError::Mismatch(_)) && text.contains(why), "{text}");
            assert_eq!(blobs.length(&sha256).await.unwrap(), None, "{why}");
        }
        let broken = pieces(&good[..9]).chain(futures_util::stream::iter([Err(io::Error::other("gone"))]));
        let error = blobs.put_stream(sha256, length, broken).await.unwrap_err();
        assert!(matches!(error, BlobError::BrokenOff { received: 9, .. }), "{error:?}");

        blobs.put_stream(sha256, length, pieces(good)).await.unwrap();
        assert_eq!(blobs.read(&sha256, length).await.unwrap().unwrap(), good.as_slice());
        assert!(matches!(
            blobs.read(&sha256, length - 1).await,
            Err(BlobError::TooLong { .. })
        ));
        let part: Vec<Bytes> = blobs.stream(&sha256, 8..10).await.unwrap().try_collect().await.unwrap();
        assert_eq!(part.concat(), b"of");
    }

    #[tokio::test]
    async fn an_announced_endless_upload_is_refused_before_it_begins() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path(), crate::clock::system()).unwrap();
        let error = blobs
            .put_stream(Sha256Digest::of(b""), BLOB_BYTES_MAX + 1, pieces(b"x"))
            .await
            .unwrap_err();
        assert!(matches!(error, BlobError::TooLong { .. }));
    }
}
