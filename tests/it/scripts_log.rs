//! The scripts of the log and of rejected entries: what they keep, what they drop, and the sizes that they tell.

use std::time::Duration;

use bytes::Bytes;
use postrider::domain::clock::UnixMillis;
use postrider::domain::event::Rejection;
use postrider::domain::ids::StreamId;
use postrider::domain::log::{LogRow, PackedPage, PageBuilder, PageKey, Status};
use postrider::redis::events::StreamEntry;
use postrider::redis::log_write::{Written, push_page, trim};
use postrider::redis::rejected::reject;
use redis::Commands;

use crate::script_world::{Walk, config, lines};

/// A page of `rows` rows, each with a payload of `payload` bytes.
pub fn page(rows: usize, payload: usize) -> PackedPage {
    let mut builder = PageBuilder::new(PageKey([3; 8]));
    for n in 0..rows {
        let row = LogRow {
            delivery: postrider::domain::ids::DeliveryId::from_bytes([u8::try_from(n).unwrap(); 16]),
            event_type: "reward.earned".into(),
            url: "https://hooks.example.org/".into(),
            status: Status::Delivered,
            attempt: 1,
            at: UnixMillis(9),
            created_at: UnixMillis(7),
            next_attempt_at: None,
            response_status: Some(200),
            excerpt: Bytes::new(),
            error: None,
            reason: None,
            took_ms: 3,
            history: Vec::new(),
            trace: None,
        };
        builder.push(&row, (payload > 0).then(|| vec![b'x'; payload]).as_deref());
    }
    builder.finish().unwrap()
}

/// Writes pages as a flush does; what was written.
pub async fn write(walk: &Walk, pages: &[&PackedPage]) -> Written {
    let mut commands = redis::pipe();
    let mut written = Written::default();
    for page in pages {
        push_page(&mut commands, &walk.keys, config(1), page);
        written.add(page);
    }
    for answer in walk.link.pipeline("writing pages in a test", &commands).await.unwrap() {
        answer.unwrap();
    }
    written
}

async fn tell(walk: &Walk, written: Written) -> u64 {
    trim(&walk.link, &walk.keys, config(1), written, &walk.retention).await.unwrap()
}

fn size(rows: usize, pages: &[&PackedPage]) -> String {
    let log: usize = pages.iter().map(|page| page.log.len()).sum();
    let payloads: usize = pages.iter().filter_map(|page| page.payloads.as_ref()).map(Vec::len).sum();
    if payloads > 0 {
        format!("size:c1 bodyBytes={payloads} logBytes={log} logRows={rows}")
    } else {
        format!("size:c1 logBytes={log} logRows={rows}")
    }
}

/// A cap, the rows that it drops, and the state that it leaves.
type Case = (&'static str, fn(&mut Walk), u64, [String; 3]);

fn caps([one, two, three]: [&PackedPage; 3]) -> [Case; 4] {
    let after =
        |log: &str, bodies: &str, rows: u64, log_pages: &[&PackedPage], payload_pages: &[&PackedPage]| {
            let (log_bytes, body_bytes) = (size_of(log_pages), payloads(payload_pages));
            let size = format!("size:c1 bodyBytes={body_bytes} logBytes={log_bytes} logRows={rows}");
            [format!("log:c1 {log} ttl"), format!("bodies:c1 {bodies} ttl"), size]
        };
    let (all, both) = ("rows=1 rows=2 rows=3", "payloads=1 payloads=2");
    let whole = after(all, both, 6, &[one, two, three], &[one, two]);
    let by_rows = after("rows=2 rows=3", both, 5, &[two, three], &[one, two]);
    let by_bytes = after("rows=3", both, 3, &[three], &[one, two]);
    let by_payloads = after(all, "payloads=2", 6, &[one, two, three], &[two]);
    [
        ("within all caps", |_| {}, 0, whole),
        ("rows", |walk| walk.retention.log_rows_max = 5, 1, by_rows),
        ("bytes", |walk| walk.retention.log_bytes_max = page(3, 0).log.len() as u64, 3, by_bytes),
        ("payloads", |walk| walk.retention.payload_bytes_max = 500, 0, by_payloads),
    ]
}

#[tokio::test]
async fn the_sizes_are_those_of_the_pages_that_are_left() {
    let (one, two, three) = (page(1, 100), page(2, 200), page(3, 0));
    for (what, cap, dropped, after) in caps([&one, &two, &three]) {
        let mut walk = Walk::new().await;
        let written = write(&walk, &[&one, &two, &three]).await;
        let before = ["log:c1 rows=1 rows=2 rows=3", "bodies:c1 payloads=1 payloads=2"];
        assert_eq!(walk.state(), lines(&before), "{what}");
        cap(&mut walk);
        let after = lines(&after.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(tell(&walk, written).await, dropped, "{what}");
        assert_eq!(walk.state(), after, "{what}");
        assert_eq!(tell(&walk, Written::default()).await, 0, "{what}: nothing more to tell");
        assert_eq!(walk.state(), after, "{what}");
    }
}

#[tokio::test]
async fn an_empty_log_has_no_size() {
    let mut walk = Walk::new().await;
    let written = write(&walk, &[&page(1, 100), &page(2, 200)]).await;
    (walk.retention.log_rows_max, walk.retention.payload_bytes_max) = (0, 0);
    for dropped in [3, 0] {
        assert_eq!(tell(&walk, if dropped > 0 { written } else { Written::default() }).await, dropped);
        assert_eq!(walk.state(), lines(&["log:c1  ttl", "bodies:c1  ttl"]));
    }
}

fn payloads(pages: &[&PackedPage]) -> usize {
    pages.iter().filter_map(|page| page.payloads.as_ref()).map(Vec::len).sum()
}

fn size_of(pages: &[&PackedPage]) -> usize {
    pages.iter().map(|page| page.log.len()).sum()
}

#[tokio::test]
async fn what_is_told_twice_counts_twice_until_the_log_is_empty() {
    let mut walk = Walk::new().await;
    let one = page(1, 0);
    let written = write(&walk, &[&one]).await;
    tell(&walk, written).await;
    tell(&walk, written).await;
    assert_eq!(walk.state(), lines(&["log:c1 rows=1 ttl", &size(2, &[&one, &one])]));
    walk.retention.log_rows_max = 0;
    assert_eq!(tell(&walk, Written::default()).await, 1);
    assert_eq!(walk.state(), ["log:c1  ttl"]);
    assert_eq!(tell(&walk, Written::default()).await, 0);
    let mut empty = Walk::new().await;
    assert_eq!(tell(&empty, Written::default()).await, 0);
    assert_eq!(empty.state(), Vec::<String>::new());
}

#[tokio::test]
async fn more_pages_than_one_call_drops_go_in_several() {
    let mut walk = Walk::new().await;
    let one = page(1, 10);
    let written = write(&walk, &vec![&one; 150]).await;
    (walk.retention.log_rows_max, walk.retention.payload_bytes_max) = (2, 3 * payloads(&[&one]) as u64);
    assert_eq!(tell(&walk, written).await, 148);
    let size = format!("size:c1 bodyBytes={} logBytes={} logRows=2", payloads(&[&one; 3]), 2 * one.log.len());
    let left = ["log:c1 rows=1 rows=1 ttl", "bodies:c1 payloads=1 payloads=1 payloads=1 ttl", &size];
    assert_eq!(walk.state(), lines(&left));
}

#[tokio::test]
async fn a_log_that_expired_takes_its_sizes_with_it() {
    let mut walk = Walk::new().await;
    let (old, new) = (page(3, 100), page(2, 50));
    let _: i64 = walk.raw.hincr(walk.keys.size(config(1)), "failedBytes", 7).unwrap();
    walk.retention.log_age_max = Duration::from_millis(1);
    let written = write(&walk, &[&old]).await;
    tell(&walk, written).await;
    let logs = [walk.keys.log(config(1)), walk.keys.bodies(config(1))];
    crate::support::wait_for("the idle log to expire", || walk.raw.exists::<_, u8>(&logs).unwrap() == 0);
    let sizes = size(3, &[&old]).replace("logBytes", "failedBytes=7 logBytes");
    assert_eq!(walk.state(), [sizes], "the sizes lie beside others, which stay");
    walk.retention.log_age_max = Duration::from_secs(60);
    walk.retention.log_rows_max = 4;
    let written = write(&walk, &[&new]).await;
    assert_eq!(tell(&walk, written).await, 0, "two rows are less than four");
    let sizes = size(2, &[&new]).replace("logBytes", "failedBytes=7 logBytes");
    assert_eq!(walk.state(), lines(&["log:c1 rows=2 ttl", "bodies:c1 payloads=2 ttl", &sizes]));
}

#[tokio::test]
async fn what_is_no_page_is_dropped_as_no_row() {
    let mut walk = Walk::new().await;
    for broken in [b"".as_slice(), b"\x01short"] {
        let _: String = walk.raw.xadd(walk.keys.log(config(1)), "*", &[("p", broken)]).unwrap();
    }
    let one = page(1, 0);
    let written = write(&walk, &[&one]).await;
    walk.retention.log_rows_max = 0;
    assert_eq!(tell(&walk, written).await, 1);
    assert_eq!(walk.state(), ["log:c1  ttl"]);
}

fn entry(fields: usize) -> StreamEntry {
    let field = |n: usize| (format!("f{n}").into_bytes(), b"v".to_vec());
    StreamEntry { id: StreamId { ms: 7, seq: 3 }, fields: (0..fields).map(field).collect() }
}

#[tokio::test]
async fn a_rejected_entry_is_kept_with_the_reason() {
    let mut walk = Walk::new().await;
    let rejection = Rejection { field: "data", problem: "no JSON".into() };
    for (fields, shown) in [
        (0, "_id=7-3,_field=data,_problem=no JSON"),
        (2, "_id=7-3,_field=data,_problem=no JSON,f0=v,f1=v"),
        (2, "_id=7-3,_field=data,_problem=no JSON,f0=v,f1=v"),
    ] {
        let before = kept(&mut walk);
        let evicted = reject(&walk.link, &walk.keys, &entry(fields), &rejection, &walk.retention).await;
        assert_eq!(evicted.unwrap(), 0);
        assert_eq!(kept(&mut walk), format!("{before} {shown}"));
    }
}

#[tokio::test]
async fn an_entry_of_thousands_of_fields_is_kept_in_part() {
    let mut walk = Walk::new().await;
    let rejection = Rejection { field: "event", problem: "missing".into() };
    reject(&walk.link, &walk.keys, &entry(5_000), &rejection, &walk.retention).await.unwrap();
    let kept = kept(&mut walk);
    assert!(kept.starts_with(
        "rejected _id=7-3,_field=event,_problem=missing (4000 further fields were left out),f0=v"
    ));
    assert!(kept.ends_with(",f999=v"));
}

#[tokio::test]
async fn rejected_entries_past_the_cap_are_counted_as_evicted() {
    let mut walk = Walk::new().await;
    walk.retention.rejected_max = 10;
    let rejection = Rejection { field: "data", problem: "no JSON".into() };
    let mut evicted = 0;
    for _ in 0..350 {
        evicted += reject(&walk.link, &walk.keys, &entry(1), &rejection, &walk.retention).await.unwrap();
    }
    assert_eq!((evicted, walk.raw.xlen::<_, u64>(walk.keys.rejected()).unwrap()), (340, 10));
    // Its bytes are those of ten: names and values of the four fields.
    let one =
        "_id".len() + "7-3".len() + "_field".len() + "data".len() + "_problem".len() + "no JSON".len() + 3;
    assert_eq!(walk.raw.get::<_, usize>(walk.keys.rejected_bytes()).unwrap(), 10 * one);

    // A limit of bytes evicts as that of entries does, 64 at a time, and the newest stays whatever its size.
    walk.retention.rejected_bytes_max = 1;
    assert_eq!(reject(&walk.link, &walk.keys, &entry(1), &rejection, &walk.retention).await.unwrap(), 10);
    assert_eq!(walk.raw.get::<_, usize>(walk.keys.rejected_bytes()).unwrap(), one);
    assert!(walk.raw.pttl::<_, i64>(walk.keys.rejected()).unwrap() > 0);
}

/// The line of `rejected` in the state of the keyspace; its expiry and its bytes aside.
fn kept(walk: &mut Walk) -> String {
    let state = walk.state();
    let line = state.iter().find(|line| line.starts_with("rejected "));
    line.map_or_else(|| "rejected".into(), |line| line.trim_end_matches(" ttl").to_owned())
}
