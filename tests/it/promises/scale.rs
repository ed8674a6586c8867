//! T10: ten thousand runs.

use super::{count, figure, is_full};
use crate::it::registry::{location, new_run, sqlite_file, start, uid};
use resnet_zoo::registry::filter::Filter;
use resnet_zoo::registry::run::Point;
use resnet_zoo::registry::store::{Batch, End, Selection, Store};
use resnet_zoo::registry::{Clock, Reader, RunState};
use std::path::Path;
use std::time::Instant;

const METRICS: [&str; 4] = ["train.loss", "train.top1", "val.loss", "val.top1"];
const STEPS: u64 = 25;

#[test]
fn curves_and_comparisons_of_many_runs() {
    let runs = count(200, 10_000);
    let folder = tempfile::tempdir().expect("a folder");
    let location = location(folder.path());
    let clock = Clock::new(|| 1_700_000_000_000);
    let mut store = Store::open(location.clone(), clock.clone()).expect("opened");
    let begun = Instant::now();
    for number in 0..runs {
        let mut new = new_run(&format!("run-{number}"));
        new.config["seed"] = number.into();
        let run = store.create_run(&uid(number as u32), &new, &start()).expect("created");
        let value =
            |step: u64, key: usize| ((number as u64 * 7919 + step * 31 + key as u64 * 17) % 1009) as f64 / 1009.0;
        let points = (0..STEPS).flat_map(|step| {
            METRICS.iter().enumerate().map(move |(key, metric)| Point {
                metric: (*metric).to_owned(),
                step,
                value: value(step, key),
            })
        });
        let end = Some(End { state: RunState::Completed, reason: None });
        store.flush(&run, &Batch { points: points.collect(), end, ..Batch::default() }).expect("written");
    }
    let loading = begun.elapsed().as_secs_f64();
    drop(store);
    let bytes = bytes_of(folder.path());

    let mut reader = Reader::open(location, clock).expect("opened");
    let all = reader.select(&Selection::default()).expect("read");
    assert_eq!(all.len(), runs);
    let chosen = |number: usize| format!("run-{}", number * 7919 % runs);
    let curve = percentile(|number| {
        let run = reader.find(&chosen(number)).expect("found");
        assert_eq!(reader.points(&run, "val.top1").expect("read").len() as u64, STEPS);
    });
    let twenty = percentile(|number| {
        let wanted: Vec<String> = (0..20).map(|other| chosen(number * 20 + other)).collect();
        let details = reader.details_of(&wanted).expect("read");
        assert!(details.len() == 20 && details.iter().all(|run| run.listing.metrics.len() == METRICS.len()));
    });
    let page = percentile(|number| {
        let page = reader.select(&Selection::default()).expect("read").cut(number, Some(50));
        assert_eq!(reader.listings(&page).expect("read").len(), 50);
    });
    let filtered = percentile(|_| {
        let filter = Filter::parse("val.top1 > 0.99 and model = \"resnet18\"", &mut reader).expect("a filter");
        let selection = Selection { filter: Some(filter), ..Selection::default() };
        let page = reader.select(&selection).expect("read").cut(0, Some(50));
        assert!(reader.listings(&page).expect("read").iter().all(|run| run.metrics["val.top1"].best > Some(0.99)));
    });
    let points = runs as u64 * STEPS * METRICS.len() as u64;
    let figures = format!(
        "{runs} runs, {points} points: written in {loading:.1} s ({:.0} points/s, a transaction a run), {:.1} bytes a point; \
         p99 of 100: a curve {curve:.2} ms, everything about 20 runs {twenty:.2} ms, a page of 50 {page:.2} ms, a filtered one {filtered:.2} ms",
        points as f64 / loading,
        bytes as f64 / points as f64
    );
    figure("T10", if is_full() { "scale" } else { "scale, a small sample" }, &figures);
}

/// What a registry takes.
fn bytes_of(folder: &Path) -> u64 {
    #[cfg(feature = "postgres")]
    if let Some(database) = crate::it::server::database(folder) {
        let size: Vec<(i64,)> = crate::it::server::rows(&database, "SELECT pg_database_size(current_database())");
        return size[0].0.unsigned_abs();
    }
    std::fs::metadata(sqlite_file(folder)).expect("there").len()
}

/// Milliseconds that 99 of 100 calls stay below.
fn percentile(mut work: impl FnMut(usize)) -> f64 {
    let mut times: Vec<f64> = (0..100)
        .map(|number| {
            let begun = Instant::now();
            work(number);
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[98]
}
