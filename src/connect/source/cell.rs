//! One value: the first column of a query's first row, as text, and whether it counts as true.

use sqlx::{AssertSqlSafe, Column as _, Decode, Row, TypeInfo as _};

use super::{Connection, PAGE_TIMEOUT, Source, SourceError};

/// The first value of a query that has rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstCell {
    /// As the database writes it; nothing for NULL.
    pub text: Option<String>,
    /// Whether it is true, by Python's rules and Airflow's: NULL, false, 0, `0` and empty text are not.
    pub is_true: bool,
}

impl Source {
    /// The first value of what `sql` selects; nothing where it selects no rows.
    ///
    /// # Errors
    /// [`SourceError`], where the query fails or takes longer than a minute.
    pub async fn first_cell(&mut self, sql: &str) -> Result<Option<FirstCell>, SourceError> {
        // Not prepared: then all values come as text, whatever their types.
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let reading = async {
            match &mut self.connection {
                Connection::MySql(connection) => {
                    query.fetch_optional(&mut **connection).await?.as_ref().map(first).transpose()
                }
                Connection::Postgres(connection) => {
                    query.fetch_optional(&mut **connection).await?.as_ref().map(first).transpose()
                }
            }
        };
        let address = self.address.clone();
        match tokio::time::timeout(PAGE_TIMEOUT, reading).await {
            Ok(read) => read.map_err(|source| SourceError::Ask { address, source }),
            Err(_) => Err(SourceError::Silent { address, limit: PAGE_TIMEOUT }),
        }
    }
}

fn first<R: Row>(row: &R) -> Result<FirstCell, sqlx::Error>
where
    usize: sqlx::ColumnIndex<R>,
    String: for<'r> Decode<'r, R::Database>,
    Option<String>: for<'r> Decode<'r, R::Database>,
{
    let Some(column) = row.columns().first() else { return Ok(FirstCell { text: None, is_true: false }) };
    let text: Option<String> = row.try_get_unchecked(0)?;
    let is_true = text.as_deref().is_some_and(|text| is_true(column.type_info().name(), text));
    Ok(FirstCell { text, is_true })
}

fn is_true(kind: &str, text: &str) -> bool {
    match kind {
        "BOOL" => text == "t",
        // Numbers have more than one way to write zero.
        "NUMERIC" | "DECIMAL" | "FLOAT" | "FLOAT4" | "FLOAT8" | "DOUBLE" => {
            text.parse::<f64>().is_ok_and(|number| number != 0.0)
        }
        _ => !matches!(text, "" | "0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_takes_for_false_is_false() {
        for (kind, text) in [("BOOL", "f"), ("NUMERIC", "0.00"), ("DOUBLE", "-0"), ("INT8", "0"), ("TEXT", "")] {
            assert!(!is_true(kind, text), "{kind} {text}");
        }
        for (kind, text) in [("BOOL", "t"), ("NUMERIC", "0.01"), ("FLOAT8", "NaN"), ("INT8", "-1"), ("TEXT", "f")] {
            assert!(is_true(kind, text), "{kind} {text}");
        }
    }
}
