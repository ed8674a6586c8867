//! What SQLite and PostgreSQL do not share. Everything else is written once, in words that both understand.

/// Which SQL a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
}

impl Dialect {
    /// A query for the numbers of a JSON array, argument `?1`.
    pub fn numbers(self) -> &'static str {
        match self {
            Dialect::Sqlite => "SELECT value FROM json_each(?1)",
        }
    }

    /// The same, of an argument that is written between the two.
    pub fn numbers_of(self) -> (&'static str, &'static str) {
        match self {
            Dialect::Sqlite => ("SELECT value FROM json_each(", ")"),
        }
    }

    /// What stands behind FROM for the texts of a JSON array, argument `?1`: `wanted.value`, in the order of `wanted.key`.
    pub fn texts(self) -> &'static str {
        match self {
            Dialect::Sqlite => "json_each(?1) AS wanted",
        }
    }

    /// A run's tags, sorted, as a JSON array.
    pub fn tags(self) -> &'static str {
        match self {
            Dialect::Sqlite => {
                "(SELECT json_group_array(tag.name ORDER BY tag.name) FROM tag WHERE tag.run_id = run.id)"
            }
        }
    }

    /// What stands before and after a query for the ids of runs, in an order of which the last key is missing: one
    /// JSON array is read faster than many rows.
    pub fn list(self) -> (&'static str, &'static str) {
        match self {
            // A limit keeps the order through the aggregate. The sign keeps SQLite from walking the wide rows for their
            // order: it reads an index, and sorts.
            Dialect::Sqlite => ("SELECT json_group_array(id) FROM (", "+run.id DESC LIMIT -1)"),
        }
    }

    /// Epochs that a run has trained.
    pub fn epochs(self) -> &'static str {
        match self {
            Dialect::Sqlite => "((run.cursor_step + 1.0) / json_extract(plan, '$.steps_per_epoch'))",
        }
    }

    /// A run's parameters.
    pub fn params(self) -> &'static str {
        match self {
            Dialect::Sqlite => "json_extract(plan, '$.params')",
        }
    }

    /// Those of them that are trained.
    pub fn trained_params(self) -> &'static str {
        match self {
            Dialect::Sqlite => "json_extract(plan, '$.trained_params')",
        }
    }
}
