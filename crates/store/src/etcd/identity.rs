//! Whose keys these are: the schema version, looked at before anything else is read or written.

use etcd_client::{Compare, CompareOp, GetOptions, KvClient, Txn, TxnOp};

use super::call::{Calls, Fault};
use super::layout::{Layout, SCHEMA_VERSION};
use crate::{Location, OpenError, Prefix};

/// Checks the schema version, and writes it where the store is new.
pub(super) async fn identify(
    calls: &Calls,
    kv: &KvClient,
    layout: &Layout,
    place: impl Fn() -> Location,
) -> Result<(), OpenError> {
    let failed = |fault: Fault| {
        let (place, source) = (place(), Box::new(fault));
        match source.is_passing() {
            true => OpenError::Unreachable { place, source },
            false => OpenError::Etcd { place, source },
        }
    };
    let found = match schema(calls, kv, layout).await.map_err(failed)? {
        Some(found) => found,
        None => {
            let strangers = strangers(calls, kv, layout).await.map_err(failed)?;
            if strangers > 0 {
                let found = format!("{strangers} keys lie there, and no {}", layout.schema());
                return Err(OpenError::NotAStore { place: place(), found });
            }
            initialise(calls, kv, layout).await.map_err(failed)?;
            let made = schema(calls, kv, layout).await.map_err(failed)?;
            made.ok_or_else(|| failed(Fault::Nonsense("etcd lost the schema version that was put")))?
        }
    };
    match found.parse::<u64>() {
        Ok(SCHEMA_VERSION) => Ok(()),
        Ok(found) if found > SCHEMA_VERSION => Err(OpenError::SchemaNewer {
            place: place(),
            found,
            supported: SCHEMA_VERSION,
        }),
        _ => Err(OpenError::NotAStore {
            place: place(),
            found: format!("its schema version is {found:?}"),
        }),
    }
}

/// The schema version as it is written, if it is.
async fn schema(calls: &Calls, kv: &KvClient, layout: &Layout) -> Result<Option<String>, Fault> {
    let answer = calls.answer(|| {
        let (mut kv, key) = (kv.clone(), layout.schema());
        async move { kv.get(key, None).await }
    });
    let text = answer.await?.take_kvs().pop();
    Ok(text.map(|pair| String::from_utf8_lossy(pair.value()).into_owned()))
}

/// How many keys lie where the store's would.
async fn strangers(calls: &Calls, kv: &KvClient, layout: &Layout) -> Result<i64, Fault> {
    let range = layout.below(&Prefix::root(), None);
    let options = GetOptions::new().with_range(range.end).with_count_only();
    let answer = calls.answer(|| {
        let (mut kv, start, options) = (kv.clone(), range.start.clone(), options.clone());
        async move { kv.get(start, Some(options)).await }
    });
    Ok(answer.await?.count())
}

/// Writes the schema version, unless another process did a moment ago.
async fn initialise(calls: &Calls, kv: &KvClient, layout: &Layout) -> Result<(), Fault> {
    let transaction = Txn::new()
        .when([Compare::version(layout.schema(), CompareOp::Equal, 0)])
        .and_then([
            TxnOp::put(layout.schema(), SCHEMA_VERSION.to_string(), None),
            TxnOp::put(layout.head(), "", None),
        ]);
    let answer = calls.answer(|| {
        let (mut kv, transaction) = (kv.clone(), transaction.clone());
        async move { kv.txn(transaction).await }
    });
    answer.await.map(drop)
}
