//! What SQLite and PostgreSQL do not share. Everything else is written once, in words that both understand.

/// Which SQL a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

impl Dialect {
    /// A query for the numbers of a JSON array, argument `?1`.
    pub fn numbers(self) -> &'static str {
        match self {
            Dialect::Sqlite => "SELECT value FROM json_each(?1)",
            #[cfg(feature = "postgres")]
            Dialect::Postgres => {
                "SELECT CAST(value AS BIGINT) AS value FROM json_array_elements_text(CAST(?1 AS JSON)) AS numbers (value)"
            }
        }
    }

    /// The same, of an argument that is written between the two.
    pub fn numbers_of(self) -> (&'static str, &'static str) {
        match self {
            Dialect::Sqlite => ("SELECT value FROM json_each(", ")"),
            #[cfg(feature = "postgres")]
            Dialect::Postgres => {
                ("SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST(", " AS JSON)) AS numbers (value)")
            }
        }
    }

    /// What stands behind FROM for the texts of a JSON array, argument `?1`: `wanted.value`, in the order of `wanted.key`.
    pub fn texts(self) -> &'static str {
        match self {
            Dialect::Sqlite => "json_each(?1) AS wanted",
            #[cfg(feature = "postgres")]
            Dialect::Postgres => "json_array_elements_text(CAST(?1 AS JSON)) WITH ORDINALITY AS wanted (value, key)",
        }
    }

    /// A run's tags, sorted, as a JSON array.
    pub fn tags(self) -> &'static str {
        match self {
            Dialect::Sqlite => {
                "(SELECT json_group_array(tag.name ORDER BY tag.name) FROM tag WHERE tag.run_id = run.id)"
            }
            #[cfg(feature = "postgres")]
            Dialect::Postgres => {
                "(SELECT CAST(coalesce(json_agg(tag.name ORDER BY tag.name), '[]') AS TEXT) FROM tag WHERE tag.run_id = run.id)"
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
            // An aggregate takes the rows of a sorted query in their order.
            #[cfg(feature = "postgres")]
            Dialect::Postgres => ("SELECT CAST(coalesce(json_agg(id), '[]') AS TEXT) FROM (", "run.id DESC) AS sorted"),
        }
    }

    /// Epochs that a run has trained.
    pub fn epochs(self) -> &'static str {
        match self {
            Dialect::Sqlite => "((run.cursor_step + 1.0) / json_extract(plan, '$.steps_per_epoch'))",
            #[cfg(feature = "postgres")]
            Dialect::Postgres => {
                "((run.cursor_step + 1) / nullif(CAST(CAST(plan AS JSON) ->> 'steps_per_epoch' AS DOUBLE PRECISION), 0))"
            }
        }
    }

    /// A run's parameters.
    pub fn params(self) -> &'static str {
        match self {
            Dialect::Sqlite => "json_extract(plan, '$.params')",
            #[cfg(feature = "postgres")]
            Dialect::Postgres => "CAST(CAST(plan AS JSON) ->> 'params' AS BIGINT)",
        }
    }

    /// Those of them that are trained.
    pub fn trained_params(self) -> &'static str {
        match self {
            Dialect::Sqlite => "json_extract(plan, '$.trained_params')",
            #[cfg(feature = "postgres")]
            Dialect::Postgres => "CAST(CAST(plan AS JSON) ->> 'trained_params' AS BIGINT)",
        }
    }

    /// Multiply-accumulates of one of its samples.
    pub fn macs(self) -> &'static str {
        match self {
            Dialect::Sqlite => "json_extract(plan, '$.macs')",
            #[cfg(feature = "postgres")]
            Dialect::Postgres => "CAST(CAST(plan AS JSON) ->> 'macs' AS BIGINT)",
        }
    }

    /// A NaN of a column of numbers: SQLite has none.
    pub fn nan(self) -> &'static str {
        match self {
            Dialect::Sqlite => "'NaN'",
            #[cfg(feature = "postgres")]
            Dialect::Postgres => "CAST('NaN' AS DOUBLE PRECISION)",
        }
    }

    /// The beginning of a query for a setting as a list shows it. A letter before what is no number tells what it is; on
    /// PostgreSQL, where a setting is text, before a number, too.
    pub fn shown_setting(self) -> &'static str {
        match self {
            Dialect::Sqlite => {
                "(SELECT CASE WHEN type = 'text' THEN 't' || value WHEN type = 'array' THEN 'j' || value \
                 WHEN type IN ('true', 'false') THEN 'j' || type ELSE value END"
            }
            #[cfg(feature = "postgres")]
            Dialect::Postgres => {
                "(SELECT CASE WHEN type = 'text' THEN 't' || value WHEN type IN ('true', 'false') THEN 'j' || type \
                 ELSE 'j' || value END"
            }
        }
    }

    /// What stands between a text and a pattern of `like`, which of two spellings the pattern has, and what follows.
    pub fn like(self, pattern: &str, fold_case: bool) -> (&'static str, String, &'static str) {
        match (self, fold_case) {
            (Dialect::Sqlite, true) => (" LIKE ", pattern.to_owned(), " ESCAPE '\\'"),
            (Dialect::Sqlite, false) => (" GLOB ", glob(pattern), ""),
            #[cfg(feature = "postgres")]
            (Dialect::Postgres, true) => (" ILIKE ", whole(pattern), " ESCAPE '\\'"),
            #[cfg(feature = "postgres")]
            (Dialect::Postgres, false) => (" LIKE ", whole(pattern), " ESCAPE '\\'"),
        }
    }
}

/// A pattern that does not end in the middle of an escape, which PostgreSQL would refuse.
#[cfg(feature = "postgres")]
fn whole(pattern: &str) -> String {
    let backslashes = pattern.len() - pattern.trim_end_matches('\\').len();
    format!("{pattern}{}", if backslashes % 2 == 1 { "\\" } else { "" })
}

/// A pattern of `like` as one of `GLOB`, which tells small from capital letters.
fn glob(pattern: &str) -> String {
    let mut glob = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let literal = match c {
            '%' => {
                glob.push('*');
                continue;
            }
            '_' => {
                glob.push('?');
                continue;
            }
            '\\' => chars.next().unwrap_or('\\'),
            other => other,
        };
        match literal {
            '*' | '?' | '[' => glob.extend(['[', literal, ']']),
            other => glob.push(other),
        }
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_globs() {
        assert_eq!(glob("resnet%_v_"), "resnet*?v?");
        assert_eq!(glob(r"100\%\_*?[a]\\"), r"100%_[*][?][[]a]\");
    }

    #[test]
    #[cfg(feature = "postgres")]
    fn patterns_do_not_end_in_an_escape() {
        assert_eq!((whole("a\\"), whole("a\\\\")), ("a\\\\".to_owned(), "a\\\\".to_owned()));
    }
}
