//! Filters, sort orders and columns as SQL. Every value is a bound parameter; the text of a statement is made of
//! constants alone.

use super::dialect::Dialect;
use super::sql::{Argument, Builder, Holders, Row, Scalar, query_as, query_scalar};
use super::{Reader, Tried};
use crate::error::{Error, Result};
use crate::registry::RunState;
use crate::registry::filter::{Catalogue, Comparison, Field, Filter, Kind, Operand, SortKey, Statistic, Test, Value};
use crate::registry::run::{Goal, RunListing};
use std::collections::{BTreeMap, BTreeSet};

/// Which runs, in which order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// Runs that it is true of; all where there is none.
    pub filter: Option<Filter>,
    /// First by its first key; at last, and where there is none, the newest first.
    pub sort: Vec<SortKey>,
    /// Whether runs that were put away are there too. A filter that asks for `archived` decides for itself.
    pub archived: bool,
}

/// A piece of a selection: runs, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    ids: Vec<i64>,
    /// How many runs the selection has.
    pub total: usize,
    /// How many of them come before the page.
    pub before: usize,
}

impl Page {
    pub(super) fn of(ids: Vec<i64>) -> Self {
        Page { total: ids.len(), before: 0, ids }
    }

    /// All runs of these pages, each once.
    pub fn join(pages: impl IntoIterator<Item = Page>) -> Self {
        let mut known = BTreeSet::new();
        let ids = pages.into_iter().flat_map(|page| page.ids);
        Page::of(ids.filter(|id| known.insert(*id)).collect())
    }

    /// From the run after `skipped` others, so many.
    pub fn cut(&self, skipped: usize, limit: Option<usize>) -> Self {
        let ids = self.ids.iter().skip(skipped).take(limit.unwrap_or(usize::MAX)).copied().collect();
        Page { ids, total: self.total, before: self.before + skipped }
    }

    /// Runs on it.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// For `json_each`.
    pub(super) fn ids_json(&self) -> String {
        serde_json::to_string(&self.ids).expect("numbers are JSON")
    }
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// The run has none.
    Missing,
    /// Any number, also NaN.
    Number(f64),
    /// A whole number.
    Integer(i128),
    /// Text.
    Text(String),
    /// True or false.
    Bool(bool),
    /// Tags.
    List(Vec<String>),
    /// A setting that is none of these.
    Json(serde_json::Value),
}

impl Catalogue for Reader {
    fn metrics(&mut self) -> Result<Vec<String>> {
        self.read(async |connection| -> Tried<Vec<String>> {
            Ok(query_scalar("SELECT name FROM metric_key ORDER BY name").fetch_all(connection).await?)
        })
    }

    fn has_setting(&mut self, key: &[String]) -> Result<bool> {
        let name = key.join(".");
        self.read(async |connection| -> Tried<bool> {
            Ok(query_scalar("SELECT EXISTS (SELECT 1 FROM setting_key WHERE name = ?)")
                .bind(&name)
                .fetch_one(connection)
                .await?)
        })
    }

    fn settings(&mut self) -> Result<Vec<String>> {
        self.read(async |connection| -> Tried<Vec<String>> {
            Ok(query_scalar("SELECT name FROM setting_key ORDER BY name").fetch_all(connection).await?)
        })
    }
}

impl Reader {
    /// The runs of a selection, all of them.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn select(&mut self, selection: &Selection) -> Result<Page> {
        self.ids(selection, None)
    }

    /// The runs that come after `run` in a selection. It need not be in it (any more).
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn select_after(&mut self, selection: &Selection, run: &RunListing) -> Result<Page> {
        let id = self.page_of(run)?.ids[0];
        let all = self.ids(selection, Some(id))?;
        let position = all.ids.iter().position(|other| *other == id);
        Ok(all.cut(position.map_or(0, |position| position + 1), None))
    }

    /// The page that has this run alone.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn page_of(&mut self, run: &RunListing) -> Result<Page> {
        let id = self.read(async |connection| -> Tried<i64> {
            Ok(query_scalar("SELECT id FROM run WHERE uid = ?").bind(&run.id).fetch_one(connection).await?)
        })?;
        Ok(Page::of(vec![id]))
    }

    fn ids(&mut self, selection: &Selection, beside: Option<i64>) -> Result<Page> {
        let sorts_by_state = selection.sort.iter().any(|key| key.operand == Operand::Field(Field::State));
        let filters_by_state = selection.filter.as_ref().is_some_and(|filter| filter.mentions(Field::State));
        let facts = self.facts(sorts_by_state || filters_by_state)?;
        let dialect = self.connection.dialect();
        let (begin, end) = dialect.list();
        let mut sql = Sql { builder: Builder::default(), facts: &facts, dialect };
        sql.push(begin);
        sql.push("SELECT run.id AS id FROM run");
        sql.push(ANNOTATED);
        sql.push(" WHERE (");
        let decides = selection.filter.as_ref().is_some_and(|filter| filter.mentions(Field::Archived));
        sql.push(if selection.archived || decides { "TRUE" } else { "annotation.archived_ms IS NULL" });
        if let Some(filter) = &selection.filter {
            sql.push(" AND ");
            sql.filter(filter);
        }
        sql.push(")");
        if let Some(id) = beside {
            sql.push(" OR run.id = ");
            sql.bind(id);
        }
        sql.push(" ORDER BY ");
        for key in &selection.sort {
            sql.sort(key);
        }
        sql.push(end);
        let query = sql.builder.build::<(String,)>();
        let (ids,) = self.read(async |connection| -> Tried<_> { Ok(query.clone().fetch_one(connection).await?) })?;
        let ids =
            serde_json::from_str(&ids).map_err(|error| Error::failed(format!("the database made no list: {error}")))?;
        Ok(Page::of(ids))
    }

    /// The values of columns, a row a run of the page, in its order.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn cells(&mut self, page: &Page, columns: &[Operand]) -> Result<Vec<Vec<Cell>>> {
        let facts = self.facts(columns.contains(&Operand::Field(Field::State)))?;
        let dialect = self.connection.dialect();
        let mut sql = Sql { builder: Builder::default(), facts: &facts, dialect };
        sql.push("SELECT run.id");
        for column in columns {
            sql.push(", ");
            sql.column(column);
        }
        sql.push(" FROM run");
        sql.push(ANNOTATED);
        sql.push(" WHERE run.id IN (");
        sql.numbers(&page.ids_json());
        sql.push(")");
        let query = sql.builder.build::<()>();
        let rows = self.read(async |connection| -> Tried<_> { Ok(query.clone().fetch_rows(connection).await?) })?;
        let mut by_id = BTreeMap::new();
        for row in &rows {
            let values = columns.iter().enumerate().map(|(index, column)| read_cell(row, index + 1, column));
            let read = || -> sqlx::Result<_> { Ok((row.value(0)?, values.collect::<sqlx::Result<Vec<Cell>>>()?)) };
            let (id, cells) = read().map_err(|error| Error::failed(format!("cannot read a column: {error}")))?;
            if let Scalar::Integer(id) = id {
                by_id.insert(id, cells);
            }
        }
        Ok(page.ids.iter().filter_map(|id| by_id.remove(id)).collect())
    }

    /// What is better, of each metric for which something is.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn goals(&mut self) -> Result<BTreeMap<String, Goal>> {
        let facts = self.facts(false)?;
        let goal = |(name, (_, goal)): (String, (i64, Option<String>))| match goal.as_deref() {
            Some("min") => Some((name, Goal::Min)),
            Some("max") => Some((name, Goal::Max)),
            _ => None,
        };
        Ok(facts.keys.into_iter().filter_map(goal).collect())
    }

    /// What expressions need to know beside the tables.
    fn facts(&mut self, states: bool) -> Result<Facts> {
        let now_ms = self.now_ms();
        let (keys, running, holders) = self.read(async |connection| -> Tried<_> {
            let keys: Vec<(String, i64, Option<String>)> =
                query_as("SELECT name, id, goal FROM metric_key").fetch_all(&mut *connection).await?;
            let running: Vec<(i64, String, String, String, i64)> = match states {
                false => Vec::new(),
                true => {
                    query_as(
                        "SELECT run.id, uid, host, boot_id, hb_ms FROM run
                     JOIN attempt ON attempt.run_id = run.id AND attempt.lease_epoch = run.lease_epoch
                     WHERE state = 'RUNNING'",
                    )
                    .fetch_all(&mut *connection)
                    .await?
                }
            };
            let holders = if running.is_empty() { Holders::Files } else { connection.holders().await? };
            Ok((keys, running, holders))
        })?;
        let (mut crashed, mut unknown) = (Vec::new(), Vec::new());
        for (id, uid, host, boot_id, hb_ms) in running {
            match self.true_state(&holders, &uid, &host, &boot_id, hb_ms) {
                RunState::Crashed => crashed.push(id),
                RunState::Unknown => unknown.push(id),
                _ => {}
            }
        }
        Ok(Facts {
            now_ms,
            keys: keys.into_iter().map(|(name, id, goal)| (name, (id, goal))).collect(),
            crashed: Page::of(crashed).ids_json(),
            unknown: Page::of(unknown).ids_json(),
        })
    }
}

const ANNOTATED: &str = " LEFT JOIN annotation ON annotation.run_id = run.id";

struct Facts {
    now_ms: i64,
    /// The metrics: id, and what is better.
    keys: BTreeMap<String, (i64, Option<String>)>,
    /// Runs that say RUNNING and are not, as JSON arrays.
    crashed: String,
    unknown: String,
}

struct Sql<'a> {
    builder: Builder,
    facts: &'a Facts,
    dialect: Dialect,
}

impl Sql<'_> {
    fn push(&mut self, sql: &'static str) {
        self.builder.push(sql);
    }

    fn bind(&mut self, value: impl Into<Argument<'static>>) {
        self.builder.bind(value);
    }

    /// A query for the numbers of a JSON array.
    fn numbers(&mut self, array: &str) {
        let (before, after) = self.dialect.numbers_of();
        self.push(before);
        self.bind(array.to_owned());
        self.push(after);
    }

    /// True, false or NULL, which counts as false.
    fn filter(&mut self, filter: &Filter) {
        match filter {
            Filter::All(parts) => self.joined(parts, " AND ", Self::filter),
            Filter::Any(parts) => self.joined(parts, " OR ", Self::filter),
            Filter::Not(part) => {
                self.push("NOT (");
                self.filter(part);
                self.push(" IS TRUE)");
            }
            Filter::Test(operand, test) => {
                self.push("(");
                self.test(operand, test);
                self.push(")");
            }
        }
    }

    fn joined<T>(&mut self, parts: &[T], between: &'static str, mut one: impl FnMut(&mut Self, &T)) {
        self.push("(");
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                self.push(between);
            }
            one(self, part);
        }
        self.push(")");
    }

    fn test(&mut self, operand: &Operand, test: &Test) {
        if *operand == Operand::Field(Field::Tag) {
            return self.tag(test);
        }
        match test {
            Test::Holds if operand.kind() == Kind::Json => {
                self.json_type(operand);
                self.push(" = 'true'");
            }
            Test::Holds => self.operand(operand),
            Test::Compare(comparison, value) => self.compare(operand, *comparison, value),
            Test::In(values) => {
                self.joined(values, " OR ", |sql, value| sql.compare(operand, Comparison::Equal, value));
            }
            Test::Like { pattern, fold_case } => {
                if operand.kind() == Kind::Json {
                    self.json_type(operand);
                    self.push(" = 'text' AND ");
                }
                self.operand(operand);
                self.like(pattern, *fold_case);
            }
            Test::IsNull => match operand {
                // A metric whose value is NaN is there.
                Operand::Metric { name, .. } => {
                    self.push("NOT EXISTS (SELECT 1 FROM summary WHERE run_id = run.id AND key_id = ");
                    self.bind(self.facts.key(name));
                    self.push(")");
                }
                // So is an object, which has no value of its own.
                Operand::Config(_) => {
                    self.push("coalesce(");
                    self.json_type(operand);
                    self.push(", 'null') = 'null'");
                }
                Operand::Field(_) => {
                    self.operand(operand);
                    self.push(" IS NULL");
                }
            },
            Test::IsNan => {
                self.test(operand, &Test::IsNull);
                self.push(" IS FALSE AND ");
                self.operand(operand);
                self.push(" IS NULL");
            }
        }
    }

    fn tag(&mut self, test: &Test) {
        self.push(match test {
            Test::IsNull => "NOT EXISTS (SELECT 1 FROM tag WHERE run_id = run.id",
            _ => "EXISTS (SELECT 1 FROM tag WHERE run_id = run.id AND ",
        });
        let equal = |sql: &mut Self, value: &Value| {
            sql.push("tag.name = ");
            sql.value(value);
        };
        match test {
            Test::Compare(_, value) => equal(self, value),
            Test::In(values) => self.joined(values, " OR ", equal),
            Test::Like { pattern, fold_case } => {
                self.push("tag.name");
                self.like(pattern, *fold_case);
            }
            Test::IsNull => {}
            Test::Holds | Test::IsNan => unreachable!("a filter asks this of no tag"),
        }
        self.push(")");
    }

    fn compare(&mut self, operand: &Operand, comparison: Comparison, value: &Value) {
        match (operand, value) {
            (Operand::Field(Field::Id), Value::Text(_)) => {
                self.push("(run.uid = ");
                self.value(value);
                self.push(" OR substr(run.uid, 29) = ");
                self.value(value);
                self.push(")");
            }
            (_, Value::Period(from, to)) => {
                let (from, to) = (*from, *to);
                let side = |sql: &mut Self, operator, moment: i64| {
                    sql.operand(operand);
                    sql.push(operator);
                    sql.bind(moment);
                };
                match comparison {
                    Comparison::Equal => {
                        side(self, " >= ", from);
                        self.push(" AND ");
                        side(self, " < ", to);
                    }
                    Comparison::Less => side(self, " < ", from),
                    Comparison::LessOrEqual => side(self, " < ", to),
                    Comparison::Greater => side(self, " >= ", to),
                    Comparison::GreaterOrEqual => side(self, " >= ", from),
                }
            }
            (Operand::Config(_), Value::Bool(value)) => {
                self.json_type(operand);
                self.push(if *value { " = 'true'" } else { " = 'false'" });
            }
            // Text is neither more nor less than a number.
            (_, Value::Operand(other)) if Kind::Json == operand.kind() || Kind::Json == other.kind() => {
                match (operand.kind(), other.kind()) {
                    (Kind::Json, Kind::Json) => {
                        self.push("coalesce(");
                        self.text(operand);
                        self.push(symbol(comparison));
                        self.text(other);
                        self.push(", ");
                        self.number(operand);
                        self.push(symbol(comparison));
                        self.number(other);
                        self.push(")");
                    }
                    (Kind::Json, kind) | (kind, _) => {
                        let side = if kind == Kind::Text { Self::text } else { Self::number };
                        side(self, operand);
                        self.push(symbol(comparison));
                        side(self, other);
                    }
                }
            }
            (Operand::Config(_), Value::Text(_)) => {
                self.json_type(operand);
                self.push(" = 'text' AND ");
                self.text(operand);
                self.push(symbol(comparison));
                self.value(value);
            }
            (Operand::Config(_), _) => {
                self.json_type(operand);
                self.push(" IN ('integer', 'real') AND ");
                self.number(operand);
                self.push(symbol(comparison));
                self.value(value);
            }
            _ => {
                self.operand(operand);
                self.push(symbol(comparison));
                self.value(value);
            }
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Integer(value) => self.bind(*value),
            Value::Number(value) => self.bind(*value),
            Value::Text(text) => self.bind(text.clone()),
            Value::Bool(value) => self.bind(*value),
            Value::State(state) => self.bind(state.name()),
            Value::Operand(operand) => self.operand(operand),
            Value::Period(from, _) => self.bind(*from),
        }
    }

    fn like(&mut self, pattern: &str, fold_case: bool) {
        let (before, pattern, after) = self.dialect.like(pattern, fold_case);
        self.push(before);
        self.bind(pattern);
        self.push(after);
    }

    /// The value of an operand for the run of the row; NULL where it has none.
    fn operand(&mut self, operand: &Operand) {
        match operand {
            Operand::Field(field) => self.field(*field),
            Operand::Metric { name, statistic } => {
                let (_, goal) = self.facts.keys.get(name).cloned().unwrap_or_default();
                self.push(match (statistic, goal.as_deref()) {
                    (Statistic::Min, _) | (Statistic::Best, Some("min")) => "(SELECT min",
                    (Statistic::Max, _) | (Statistic::Best, Some("max")) => "(SELECT max",
                    (Statistic::Last | Statistic::Best, _) => "(SELECT last",
                    (Statistic::Count, _) => "(SELECT n",
                });
                self.push(" FROM summary WHERE run_id = run.id AND key_id = ");
                self.bind(self.facts.key(name));
                self.push(")");
            }
            Operand::Config(key) => self.setting("(SELECT value", key),
        }
    }

    /// As [`operand`](Self::operand); of a setting, only where it is text.
    fn text(&mut self, operand: &Operand) {
        match operand {
            Operand::Config(key) => self.setting("(SELECT CASE WHEN type IN ('text', 'array') THEN value END", key),
            other => self.operand(other),
        }
    }

    /// As [`operand`](Self::operand); of a setting, only where it is no text. Truth is 1.
    fn number(&mut self, operand: &Operand) {
        match operand {
            Operand::Config(key) => {
                let select = "(SELECT CASE WHEN type NOT IN ('text', 'array') THEN CAST(value AS NUMERIC) END";
                self.setting(select, key);
            }
            other => self.operand(other),
        }
    }

    fn json_type(&mut self, operand: &Operand) {
        let Operand::Config(key) = operand else { return };
        self.setting("(SELECT type", key);
    }

    /// A part of the order, with a comma. Numbers come before texts.
    fn sort(&mut self, key: &SortKey) {
        let sides: Vec<fn(&mut Self, &Operand)> = match (self.dialect, &key.operand, key.descending) {
            #[cfg(feature = "postgres")]
            (Dialect::Postgres, Operand::Config(_), false) => vec![Self::number, Self::text],
            #[cfg(feature = "postgres")]
            (Dialect::Postgres, Operand::Config(_), true) => vec![Self::text, Self::number],
            // SQLite sorts values of several types so by itself.
            _ => vec![Self::operand],
        };
        for side in sides {
            side(self, &key.operand);
            self.push(if key.descending { " DESC NULLS LAST, " } else { " ASC NULLS LAST, " });
        }
    }

    fn setting(&mut self, select: &'static str, key: &[String]) {
        self.push(select);
        self.push(" FROM setting WHERE run_id = run.id AND key_id = (SELECT id FROM setting_key WHERE name = ");
        self.bind(key.join("."));
        self.push("))");
    }

    fn field(&mut self, field: Field) {
        match field {
            Field::State => {
                let facts = self.facts;
                self.push("CASE WHEN run.state <> 'RUNNING' THEN run.state WHEN run.id IN (");
                self.numbers(&facts.crashed);
                self.push(") THEN 'CRASHED' WHEN run.id IN (");
                self.numbers(&facts.unknown);
                self.push(") THEN 'UNKNOWN' ELSE 'RUNNING' END");
            }
            Field::Age => {
                self.push("((");
                self.bind(self.facts.now_ms);
                self.push(" - run.created_ms) / CAST(1000 AS DOUBLE PRECISION))");
            }
            _ => self.push(match field {
                Field::Id => "run.uid",
                Field::Name => "run.name",
                Field::Experiment => "(SELECT name FROM experiment WHERE id = run.experiment_id)",
                Field::Model => "run.model",
                Field::Reason => "run.reason",
                Field::Seed => "run.seed",
                Field::Device => "(SELECT device FROM attempt WHERE run_id = run.id AND lease_epoch = run.lease_epoch)",
                Field::Host => "(SELECT host FROM attempt WHERE run_id = run.id AND lease_epoch = run.lease_epoch)",
                Field::Commit => "(SELECT git_sha FROM build WHERE id = run.build_id)",
                Field::Created => "run.created_ms",
                Field::Duration => "(SELECT sum(seconds) FROM attempt WHERE run_id = run.id)",
                Field::Steps => "(run.cursor_step + 1)",
                Field::Epochs => self.dialect.epochs(),
                Field::Params => self.dialect.params(),
                Field::TrainedParams => self.dialect.trained_params(),
                Field::Macs => self.dialect.macs(),
                Field::Tag => self.dialect.tags(),
                Field::Group => "annotation.run_group",
                Field::Note => "annotation.note",
                Field::Archived => "(annotation.archived_ms IS NOT NULL)",
                Field::State | Field::Age => unreachable!("matched above"),
            }),
        }
    }

    /// As [`operand`](Self::operand), for people: a NaN says so, a setting keeps its JSON type.
    fn column(&mut self, operand: &Operand) {
        match operand {
            Operand::Metric { .. } => {
                self.push("CASE WHEN ");
                self.test(operand, &Test::IsNan);
                self.push(" THEN ");
                self.push(self.dialect.nan());
                self.push(" ELSE ");
                self.operand(operand);
                self.push(" END");
            }
            Operand::Config(key) => self.setting(self.dialect.shown_setting(), key),
            Operand::Field(field) => self.field(*field),
        }
    }
}

fn symbol(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => " = ",
        Comparison::Less => " < ",
        Comparison::LessOrEqual => " <= ",
        Comparison::Greater => " > ",
        Comparison::GreaterOrEqual => " >= ",
    }
}

impl Facts {
    fn key(&self, metric: &str) -> Option<i64> {
        self.keys.get(metric).map(|(id, _)| *id)
    }
}

fn read_cell(row: &Row, index: usize, column: &Operand) -> sqlx::Result<Cell> {
    use serde_json::Value as Json;
    let damaged = |error: serde_json::Error| sqlx::Error::Decode(Box::new(error));
    Ok(match (column, row.value(index)?) {
        (_, Scalar::Null) => Cell::Missing,
        (Operand::Metric { .. }, Scalar::Text(_)) => Cell::Number(f64::NAN),
        (Operand::Config(_), Scalar::Text(text)) => match text.strip_prefix('t') {
            Some(text) => Cell::Text(text.to_owned()),
            None => match serde_json::from_str(text.trim_start_matches('j')).map_err(damaged)? {
                Json::Bool(value) => Cell::Bool(value),
                Json::Number(number) => match number.as_i64() {
                    Some(whole) => Cell::Integer(i128::from(whole)),
                    None => Cell::Number(number.as_f64().unwrap_or(f64::NAN)),
                },
                other => Cell::Json(other),
            },
        },
        (Operand::Field(Field::Tag), Scalar::Text(text)) => Cell::List(serde_json::from_str(&text).map_err(damaged)?),
        (Operand::Field(Field::Archived), Scalar::Integer(value)) => Cell::Bool(value == 1),
        // The 64 bits of an unsigned number.
        (Operand::Field(Field::Seed), Scalar::Integer(value)) => Cell::Integer(i128::from(value.cast_unsigned())),
        (_, Scalar::Integer(value)) => Cell::Integer(i128::from(value)),
        (_, Scalar::Real(value)) => Cell::Number(value),
        (_, Scalar::Text(text)) => Cell::Text(text),
        (_, Scalar::Blob(_)) => return Err(sqlx::Error::Decode("no column is a blob".into())),
    })
}
