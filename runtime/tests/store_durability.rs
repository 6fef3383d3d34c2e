//! What is acknowledged is on disk: across reopening, `kill -9`, torn tails, full disks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use trainyard_runtime::store::{
    DeleteOptions, Key, ListQuery, Options, Resource, ResourceRules, Store, StoreError, WatchEvent, WatchOptions,
    WatchQuery, WriteOptions,
};

fn widgets() -> Resource {
    Resource::new("example.com", "widgets")
}

fn options(folder: &Path) -> Options {
    let rules = vec![ResourceRules::plain(widgets(), false), ResourceRules::plain(Resource::new("", "events"), false)];
    Options::new(folder.join("store.db"), rules)
}

fn key(name: &str) -> Key {
    Key::new(widgets(), "", name)
}

async fn put(store: &Store, name: &str, n: u64) -> Result<u64, StoreError> {
    let outcome = store
        .transact(&key(name), WriteOptions::default(), move |current| {
            let mut value = current.map_or_else(|| json!({ "metadata": {} }), |c| c.value().clone());
            value["data"] = json!({ "n": n, "pad": "x".repeat(200) });
            Ok::<_, StoreError>(value)
        })
        .await?;
    Ok(outcome.object.resource_version())
}

fn numbers(store: &Store) -> BTreeMap<String, u64> {
    let page = store.list(&widgets(), &ListQuery::default()).unwrap();
    page.items.iter().map(|o| (o.key().name.to_string(), o.value()["data"]["n"].as_u64().unwrap())).collect()
}

#[tokio::test]
async fn everything_is_there_after_reopening_and_versions_go_on() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(options(home.path())).await.unwrap();
    for n in 0..10 {
        put(&store, &format!("w{}", n % 4), n).await.unwrap();
    }
    store.delete(&key("w3"), DeleteOptions::default()).await.unwrap();
    let (before, version) = (numbers(&store), store.resource_version());
    let uid = store.get(&key("w0")).unwrap().uid().clone();
    store.close().await;
    assert!(matches!(put(&store, "late", 1).await, Err(StoreError::Storage { .. })), "a closed store refuses");

    let store = Store::open(options(home.path())).await.unwrap();
    assert_eq!(numbers(&store), before);
    assert_eq!(store.get(&key("w0")).unwrap().uid(), &uid);
    assert_eq!(store.resource_version(), version);
    // A watch from the last version resumes; one that may have missed the deletion must list again.
    let from = |v| WatchQuery { resource_version: Some(v), ..WatchQuery::default() };
    let mut watch = store.watch(&widgets(), from(version), WatchOptions::default()).unwrap();
    let missed = store.watch(&widgets(), from(version - 1), WatchOptions::default());
    assert!(matches!(missed, Err(StoreError::Expired { .. })));
    assert!(put(&store, "w3", 7).await.unwrap() > version);
    let event = watch.next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(o) if *o.key().name == *"w3"));
    store.close().await;
    assert!(watch.next().await.is_none(), "watches end with the store");
}

/// Copies the files as a crash would leave them, cuts the log at every kind of place, and reopens.
#[tokio::test]
async fn a_torn_log_loses_only_what_was_torn_off() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(options(home.path())).await.unwrap();
    let log = home.path().join("store.db-wal");
    // (log length when acknowledged, what must be there then)
    let mut acknowledged: Vec<(u64, BTreeMap<String, u64>)> = Vec::new();
    for n in 0..40_u64 {
        if n % 9 == 8 {
            store.delete(&key(&format!("w{}", n % 5)), DeleteOptions::default()).await.ok();
        }
        put(&store, &format!("w{}", n % 5), n).await.unwrap();
        acknowledged.push((std::fs::metadata(&log).unwrap().len(), numbers(&store)));
    }
    let whole = std::fs::read(&log).unwrap();
    let database = std::fs::read(home.path().join("store.db")).unwrap();
    let end = whole.len();
    // Cut in the middle of a page, at its start, a byte before the end; and garble instead of cutting.
    for (cut, garble) in [
        (end - 1, false),
        (end - 2000, false),
        (end / 2, false),
        (end / 3 + 17, false),
        (end - 100, true),
        (end / 2, true),
    ] {
        let torn = tempfile::tempdir().unwrap();
        let mut log = whole.clone();
        if garble {
            log[cut..].iter_mut().for_each(|b| *b ^= 0x5a);
        } else {
            log.truncate(cut);
        }
        std::fs::write(torn.path().join("store.db"), &database).unwrap();
        std::fs::write(torn.path().join("store.db-wal"), &log).unwrap();
        let reopened = Store::open(options(torn.path())).await.unwrap();
        let found = numbers(&reopened);
        // Something acknowledged no earlier than the last intact acknowledgement, and no mixture of two.
        let intact = acknowledged.iter().rposition(|(length, _)| *length <= cut as u64).unwrap();
        let states: Vec<_> = acknowledged[intact..].iter().map(|(_, s)| s).collect();
        assert!(states.contains(&&found) || deleted_between(&states, &found), "cut at {cut} of {end}: {found:?}");
        put(&reopened, "after", 1).await.unwrap();
        assert!(reopened.resource_version() > 0);
        reopened.close().await;
    }
    store.close().await;
}

/// Power fails while the log is folded into the database: pages of the database are half written, the log is whole.
#[tokio::test]
async fn a_torn_page_of_the_database_is_healed_from_the_log() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(options(home.path())).await.unwrap();
    for n in 0..60_u64 {
        put(&store, &format!("w{n}"), n).await.unwrap();
    }
    let expected = numbers(&store);
    let log = std::fs::read(home.path().join("store.db-wal")).unwrap();
    store.close().await;
    let folded = std::fs::read(home.path().join("store.db")).unwrap();
    assert!(folded.len() > 4 * 4096, "there are pages to tear");
    // The last page, one in the middle, and all but the first.
    let pages = folded.len() / 4096;
    for torn_pages in [vec![pages - 1], vec![pages / 2], (1..pages).collect()] {
        let torn = tempfile::tempdir().unwrap();
        let mut database = folded.clone();
        for page in torn_pages {
            database[page * 4096 + 1700..(page + 1) * 4096].fill(0xee);
        }
        std::fs::write(torn.path().join("store.db"), &database).unwrap();
        std::fs::write(torn.path().join("store.db-wal"), &log).unwrap();
        let reopened = Store::open(options(torn.path())).await.unwrap();
        assert_eq!(numbers(&reopened), expected);
        put(&reopened, "after", 1).await.unwrap();
        reopened.close().await;
        assert_eq!(numbers(&Store::open(options(torn.path())).await.unwrap()).len(), expected.len() + 1);
    }
}

/// The state between a deletion and the write that followed it.
fn deleted_between(states: &[&BTreeMap<String, u64>], found: &BTreeMap<String, u64>) -> bool {
    states.windows(2).any(|pair| {
        let changed = pair[1].iter().find(|(name, n)| pair[0].get(*name) != Some(n));
        let mut before = pair[0].clone();
        changed.is_some_and(|(name, _)| before.remove(name).is_some()) && before == *found
    })
}

/// The child's part of the next test: writes and says so, until it is killed.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    let Ok(home) = std::env::var("TRAINYARD_TEST_STORE") else { return };
    let store = Store::open(options(Path::new(&home))).await.unwrap();
    let start: u64 = std::env::var("TRAINYARD_TEST_START").unwrap().parse().unwrap();
    let writers = (0..8_u64).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in start.. {
                let version = put(&store, &format!("w{w}"), n).await.unwrap();
                // One write, so that a line is whole or absent.
                std::io::stdout().write_all(format!("ack w{w} {n} {version}\n").as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn every_acknowledged_write_survives_kill_9() {
    let home = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut highest = 0;
    for round in 0..3_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
            .env("TRAINYARD_TEST_STORE", home.path())
            .env("TRAINYARD_TEST_START", (round * 1_000_000).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            let Some(ack) = line.split("ack ").nth(1) else { continue };
            let parts: Vec<&str> = ack.split(' ').collect();
            let &[name, n, version] = parts.as_slice() else { continue };
            acknowledged.insert(name.to_owned(), n.parse().unwrap());
            highest = highest.max(version.parse::<u64>().unwrap());
            seen += 1;
            if seen == 400 {
                // SIGKILL, in the middle of whatever it is doing; what it had said before is still read.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 400, "the child wrote");
        let store = Store::open(options(home.path())).await.unwrap();
        let found = numbers(&store);
        for (name, n) in &acknowledged {
            assert!(found[name] >= *n, "{name}: acknowledged {n}, found {}", found[name]);
        }
        assert!(store.resource_version() >= highest);
        store.close().await;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(Options { max_bytes: Some(64 << 10), ..options(home.path()) }).await.unwrap();
    let mut watch = store.watch(&widgets(), WatchQuery::default(), WatchOptions::default()).unwrap();
    let mut stored = BTreeMap::new();
    let refused = loop {
        let n = stored.len() as u64;
        match put(&store, &format!("w{n}"), n).await {
            Ok(_) => stored.insert(format!("w{n}"), n),
            Err(error) => break error,
        };
    };
    assert!(matches!(&refused, StoreError::Full { message } if message.contains("full")), "{refused}");
    assert!(stored.len() > 10);
    assert_eq!(numbers(&store), stored, "memory is not ahead of the disk");
    for (name, _) in (0..stored.len()).map(|n| (format!("w{n}"), n)) {
        let event = watch.next().await.unwrap().unwrap();
        assert!(matches!(event, WatchEvent::Added(_)), "{name}");
    }
    assert!(watch.try_next().is_none(), "nobody was told of the refused write");
    // Its version was not told either: whoever had it would miss what gets it after a restart.
    let told = store.resource_version();
    assert_eq!(told, stored.len() as u64);
    let copy = tempfile::tempdir().unwrap();
    for file in ["store.db", "store.db-wal"] {
        std::fs::copy(home.path().join(file), copy.path().join(file)).unwrap();
    }
    let killed = Store::open(options(copy.path())).await.unwrap();
    let from = |v| WatchQuery { resource_version: Some(v), ..WatchQuery::default() };
    let mut resumed = killed.watch(&widgets(), from(told), WatchOptions::default()).unwrap();
    put(&killed, "next", 1).await.unwrap();
    assert!(
        matches!(resumed.try_next(), Some(Ok(WatchEvent::Added(o))) if *o.key().name == *"next"),
        "nothing is missed"
    );
    // Room again: writing goes on.
    let half = stored.len() / 2;
    for name in stored.keys().take(half).cloned().collect::<Vec<_>>() {
        store.delete(&key(&name), DeleteOptions::default()).await.unwrap();
        stored.remove(&name);
    }
    let again = put(&store, "again", 5).await.unwrap();
    assert_eq!(again, told + 1 + half as u64 + 1, "the refused write's version is not used again");
    stored.insert("again".to_owned(), 5);
    store.close().await;
    let store = Store::open(options(home.path())).await.unwrap();
    assert_eq!(numbers(&store), stored);
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(options(home.path())).await.unwrap();
    put(&store, "a", 1).await.unwrap();
    for file in ["store.db", "store.db-wal"] {
        let mode = std::fs::metadata(home.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let missing = Store::open(Options::new(home.path().join("no/such/store.db"), vec![])).await.unwrap_err();
    assert!(missing.to_string().contains("check the folder's permissions"), "{missing}");
}

async fn sql(folder: &Path, text: &'static str) {
    use sqlx::{Connection, Executor};
    let path = folder.join("store.db");
    let mut db = sqlx::SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    db.execute(text).await.unwrap();
    db.close().await.unwrap();
}

#[tokio::test]
async fn a_newer_database_or_none_at_all_is_refused_with_a_reason() {
    let home = tempfile::tempdir().unwrap();
    Store::open(options(home.path())).await.unwrap().close().await;
    sql(home.path(), "PRAGMA user_version = 99").await;
    let newer = Store::open(options(home.path())).await.unwrap_err().to_string();
    assert!(newer.contains("schema version 99"), "{newer}");
    std::fs::write(home.path().join("store.db"), "not a database at all, but long enough to be looked at").unwrap();
    assert!(Store::open(options(home.path())).await.unwrap_err().to_string().contains("not a database"));
}

#[tokio::test]
async fn events_that_cannot_be_read_are_put_aside_and_all_others_are_there() {
    use sqlx::{Connection, Row};
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(options(home.path())).await.unwrap();
    put(&store, "good", 3).await.unwrap();
    let seen = store.resource_version();
    store.close().await;
    sql(home.path(), "INSERT INTO objects VALUES (70, 'events.', '{\"metadata\":{\"name\":\"x\"}}')").await;
    sql(home.path(), "INSERT INTO objects VALUES (71, 'events.', x'ff00')").await;
    let deep = "INSERT INTO objects SELECT 72, 'events.', '{\"metadata\":{\"resourceVersion\":\"90\"},\"a\":' || \
                replace(hex(zeroblob(150)), '00', '[') || replace(hex(zeroblob(150)), '00', ']') || '}'";
    sql(home.path(), deep).await;
    for _ in 0..2 {
        let store = Store::open(options(home.path())).await.unwrap();
        assert_eq!(numbers(&store), BTreeMap::from([("good".to_owned(), 3)]));
        assert!(store.resource_version() > 1_000_000, "no version of theirs is used again, known or not");
        let query = WatchQuery { resource_version: Some(seen), ..WatchQuery::default() };
        let resumed = store.watch(&Resource::new("", "events"), query, WatchOptions::default());
        assert!(matches!(resumed, Err(StoreError::Expired { .. })), "whoever saw them lists again");
        store.close().await;
    }
    let path = format!("sqlite:{}", home.path().join("store.db").display());
    let mut db = sqlx::SqliteConnection::connect(&path).await.unwrap();
    let rows = sqlx::query("SELECT birth, CAST(json AS BLOB), reason FROM quarantine ORDER BY birth");
    let rows = rows.fetch_all(&mut db).await.unwrap();
    let kept: Vec<(i64, &[u8])> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(kept[..2], [(70, &b"{\"metadata\":{\"name\":\"x\"}}"[..]), (71, &b"\xff\x00"[..])]);
    assert_eq!(kept.len(), 3);
    assert_eq!(rows[0].get::<&str, _>(2), "metadata.uid is missing");
    assert!(rows[2].get::<&str, _>(2).contains("recursion limit"), "{}", rows[2].get::<&str, _>(2));
}

/// A missing object means that it was deleted: its pods would be ended, its volumes emptied.
#[tokio::test]
async fn what_others_depend_on_is_not_put_aside_unasked() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(options(home.path())).await.unwrap();
    put(&store, "good", 3).await.unwrap();
    let told = store.resource_version();
    store.close().await;
    sql(
        home.path(),
        "INSERT INTO objects VALUES (70, 'widgets.example.com', '{\"metadata\":{\"namespace\":\"ns\",\"name\":\"x\"}}')",
    )
    .await;
    sql(home.path(), "INSERT INTO objects VALUES (71, 'widgets.example.com', '{\"metadata\":{\"name\":\"to')").await;
    sql(home.path(), "INSERT INTO objects VALUES (72, 'events.', '{')").await;
    for put_aside in [vec![], vec![70]] {
        let refused = Store::open(Options { put_aside, ..options(home.path()) }).await.unwrap_err().to_string();
        assert!(
            refused.contains("store.db") && refused.contains("row 71 (widgets.example.com, name unknown: not JSON")
        );
    }
    let refused = Store::open(options(home.path())).await.unwrap_err().to_string();
    assert!(refused.contains("row 70 (widgets.example.com/ns/x: metadata.uid is missing)"), "{refused}");
    assert!(refused.contains("TRAINYARD_PUT_ASIDE=70,71 "), "{refused}");
    let asked = Options { put_aside: vec![70, 71], ..options(home.path()) };
    let store = Store::open(asked).await.unwrap();
    assert_eq!(numbers(&store), BTreeMap::from([("good".to_owned(), 3)]));
    assert!(store.resource_version() > told + 1_000_000);
    store.close().await;
    assert_eq!(numbers(&Store::open(options(home.path())).await.unwrap()).len(), 1, "they stay aside");
}

/// Sixty-four writers at once: versions are unique, every write is there, none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_increments_all_count() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(options(home.path())).await.unwrap();
    put(&store, "shared", 0).await.unwrap();
    let writers = (0..64).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut versions = Vec::new();
            for _ in 0..10 {
                let outcome = store
                    .transact(&key("shared"), WriteOptions::default(), |current| {
                        let mut value = current.unwrap().value().clone();
                        value["data"]["n"] = json!(value["data"]["n"].as_u64().unwrap() + 1);
                        Ok::<_, StoreError>(value)
                    })
                    .await
                    .unwrap();
                versions.push(outcome.object.resource_version());
            }
            versions
        })
    });
    let mut versions: Vec<u64> =
        futures::future::join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 640);
    assert_eq!(numbers(&store)["shared"], 640);
    assert_eq!(Arc::strong_count(&store.get(&key("shared")).unwrap()), 3, "state, window, here");
}

#[tokio::test]
async fn a_panicking_transaction_harms_nobody_else() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(options(home.path())).await.unwrap();
    let panicked = store
        .transact(&key("a"), WriteOptions::default(), |_| -> Result<_, StoreError> { panic!("a bug in a patch") })
        .await;
    assert!(matches!(panicked, Err(StoreError::Storage { .. })));
    put(&store, "a", 1).await.unwrap();
    assert_eq!(numbers(&store)["a"], 1);
}
