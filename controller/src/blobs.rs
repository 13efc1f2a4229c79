//! Large objects by their SHA-256: artifacts, manifests, metadata files, states of federated jobs.
//!
//! A blob is complete and right, or it is not there: its bytes are hashed while they arrive, and it gets its name last.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fieldfare_release::{ArtifactError, ArtifactVerifier, Sha256Digest};
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
}

fn path(sha256: &Sha256Digest) -> object_store::path::Path {
    let hex = sha256.to_string();
    // Two levels, since some file systems slow down with a million files in one folder.
    object_store::path::Path::from(format!("sha256/{}/{hex}", &hex[..2]))
}

impl Blobs {
    /// The blobs in a local folder, which must exist. What is acknowledged is synced to disk.
    pub fn local(folder: &Path) -> Result<Self, BlobError> {
        let objects = LocalFileSystem::new_with_prefix(folder).map_err(BlobError::Objects)?;
        Ok(Self {
            objects: Arc::new(objects.with_fsync(true)),
        })
    }

    /// The length of a blob; nothing if it is not there.
    pub async fn length(&self, sha256: &Sha256Digest) -> Result<Option<u64>, BlobError> {
        match self.objects.head(&path(sha256)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(BlobError::Objects(error)),
        }
    }

    /// Stores the bytes of a stream as the blob that they must be. Storing a blob that is there reads nothing and is
    /// successful: equal names are equal bytes.
    pub async fn put_stream<E>(
        &self,
        sha256: Sha256Digest,
        length: u64,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<(), BlobError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if length > BLOB_BYTES_MAX {
            return Err(BlobError::TooLong { announced: length });
        }
        if self.length(&sha256).await? == Some(length) {
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
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Sha256Digest, BlobError> {
        let sha256 = Sha256Digest::of(&bytes);
        if self.length(&sha256).await?.is_none() {
            self.objects
                .put(&path(&sha256), PutPayload::from(bytes))
                .await
                .map_err(BlobError::Objects)?;
        }
        Ok(sha256)
    }

    /// A whole blob of at most `limit` bytes, verified; nothing if it is not there.
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

async fn receive<E>(
    upload: &mut dyn MultipartUpload,
    mut verifier: ArtifactVerifier,
    bytes: impl Stream<Item = Result<Bytes, E>> + Send,
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
    use std::io;

    fn pieces(bytes: &[u8]) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + use<> {
        let chunks: Vec<_> = bytes.chunks(3).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        futures_util::stream::iter(chunks)
    }

    #[tokio::test]
    async fn only_the_announced_bytes_become_a_blob() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path()).unwrap();
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
        let blobs = Blobs::local(folder.path()).unwrap();
        let error = blobs
            .put_stream(Sha256Digest::of(b""), BLOB_BYTES_MAX + 1, pieces(b"x"))
            .await
            .unwrap_err();
        assert!(matches!(error, BlobError::TooLong { .. }));
    }
}
