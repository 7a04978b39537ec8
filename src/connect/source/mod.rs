//! A source database, MySQL (and MariaDB) or Postgres, read in ranges under one snapshot.
//!
//! Nothing is ever written, and no table is held in memory: keys come in pages, rows by their keys. Rows leave as JSON
//! objects whose columns stand in the table's order.

mod cell;
mod error;
mod json;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use secrecy::{ExposeSecret, SecretString};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, Executor, Row as _, Statement as _, TypeInfo as _};
use url::Url;

pub use cell::FirstCell;
pub use error::SourceError;
use json::{Kind, encode_mysql, encode_postgres};

/// How long a server may take to let us in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a page of keys or rows may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a page's failure is called.
const READ_ROWS: &str = "read rows of";

/// How long counting a table may take: a hundred million rows take about a minute.
const COUNT_TIMEOUT: Duration = Duration::from_secs(600);

/// A connection to a source database, with a snapshot open: whoever writes to it meanwhile is not seen.
pub struct Source {
    connection: Connection,
    address: String,
}

enum Connection {
    MySql(Box<MySqlConnection>),
    Postgres(Box<PgConnection>),
}

/// A table as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTable {
    /// Its name, as it was asked for.
    pub name: String,
    /// The column that tells its rows apart, an integer.
    pub key: String,
    /// Its columns' names, in its own order.
    pub columns: Vec<String>,
    kinds: Vec<Kind>,
}

/// The keys of a table as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpace {
    /// How many there are.
    pub count: u64,
    /// The lowest.
    pub lowest: i64,
    /// The highest.
    pub highest: i64,
}

impl KeySpace {
    /// Whether there is a row for each integer from the lowest to the highest.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.count > 0
            && self.highest.checked_sub(self.lowest).and_then(|span| u64::try_from(span).ok()) == Some(self.count - 1)
    }
}

impl Source {
    /// Connects and opens a snapshot.
    ///
    /// # Errors
    /// [`SourceError`] names scheme, host and database, never the user or the password.
    pub async fn connect(url: &SecretString) -> Result<Self, SourceError> {
        let parsed =
            Url::parse(url.expose_secret()).map_err(|error| SourceError::Url(format!("cannot be read: {error}")))?;
        let address = address(&parsed);
        let connecting = async {
            match parsed.scheme() {
                "mysql" | "mariadb" => connect_mysql(&parsed).await.map(|c| Connection::MySql(Box::new(c))),
                _ => connect_postgres(&parsed).await.map(|c| Connection::Postgres(Box::new(c))),
            }
        };
        if !matches!(parsed.scheme(), "mysql" | "mariadb" | "postgres" | "postgresql") {
            return Err(SourceError::Url(format!(
                "begins with `{}://`; mysql:// and postgres:// are understood",
                parsed.scheme()
            )));
        }
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(Self { connection, address }),
            Ok(Err(source)) => Err(SourceError::connecting(&address, source)),
            Err(_) => {
                let source = sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
                Err(SourceError::connecting(&address, source))
            }
        }
    }

    /// Scheme, host and database, for messages.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Looks up a table's columns, and that `key` is an integer among them.
    ///
    /// # Errors
    /// [`SourceError`] names the table, and the column that is missing or has no form in JSON.
    pub async fn table(&mut self, name: &str, key: &str) -> Result<SourceTable, SourceError> {
        let sql = format!("SELECT * FROM {}", self.quoted_table(name));
        let described = async {
            Ok(match &mut self.connection {
                Connection::MySql(connection) => described(
                    connection.prepare(sqlx::SqlSafeStr::into_sql_str(AssertSqlSafe(sql))).await?.columns(),
                    Kind::of_mysql,
                ),
                Connection::Postgres(connection) => described(
                    connection.prepare(sqlx::SqlSafeStr::into_sql_str(AssertSqlSafe(sql))).await?.columns(),
                    Kind::of_postgres,
                ),
            })
        };
        let described = within(PAGE_TIMEOUT, "describe", name, &self.address, described).await?;
        let mut table =
            SourceTable { name: name.to_owned(), key: key.to_owned(), columns: Vec::new(), kinds: Vec::new() };
        let Some((_, key_type, key_kind)) = described.iter().find(|(column, ..)| column == key) else {
            let found: Vec<String> = described.iter().map(|(column, ..)| format!("`{column}`")).collect();
            return Err(SourceError::NoColumn {
                table: name.to_owned(),
                column: key.to_owned(),
                found: found.join(", "),
            });
        };
        if !matches!(key_kind, Some(Kind::Integer | Kind::Unsigned)) {
            let (table, column, found) = (name.to_owned(), key.to_owned(), key_type.clone());
            return Err(SourceError::KeyType { table, column, found });
        }
        for (column, found, kind) in described {
            let Some(kind) = kind else {
                return Err(SourceError::ColumnType { table: name.to_owned(), column, found });
            };
            table.columns.push(column);
            table.kinds.push(kind);
        }
        Ok(table)
    }

    /// How many keys a table has and between which they lie.
    ///
    /// # Errors
    /// [`SourceError`] when the table cannot be counted.
    pub async fn key_space(&mut self, table: &SourceTable) -> Result<KeySpace, SourceError> {
        let key = self.quoted(&table.key);
        let integer = self.integer(&key);
        let sql = format!(
            "SELECT COUNT({key}), COALESCE(MIN({integer}), 0), COALESCE(MAX({integer}), 0) FROM {}",
            self.quoted_table(&table.name)
        );
        let query = AssertSqlSafe(sql);
        let (count, lowest, highest): (i64, i64, i64) = {
            let counting = async {
                match &mut self.connection {
                    Connection::MySql(connection) => sqlx::query_as(query).fetch_one(&mut **connection).await,
                    Connection::Postgres(connection) => sqlx::query_as(query).fetch_one(&mut **connection).await,
                }
            };
            within(COUNT_TIMEOUT, "count the rows of", &table.name, &self.address, counting).await?
        };
        Ok(KeySpace { count: count.cast_unsigned(), lowest, highest })
    }

    /// The next `limit` keys above `after`, in order.
    ///
    /// # Errors
    /// [`SourceError`] when they cannot be read.
    pub async fn keys_after(
        &mut self,
        table: &SourceTable,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<i64>, SourceError> {
        let key = self.quoted(&table.key);
        let range = after.map_or_else(|| format!("{key} IS NOT NULL"), |after| format!("{key} > {after}"));
        let sql = format!(
            "SELECT {} FROM {} WHERE {range} ORDER BY {key} LIMIT {limit}",
            self.integer(&key),
            self.quoted_table(&table.name)
        );
        let query = AssertSqlSafe(sql);
        let reading = async {
            match &mut self.connection {
                Connection::MySql(connection) => sqlx::query_scalar(query).fetch_all(&mut **connection).await,
                Connection::Postgres(connection) => sqlx::query_scalar(query).fetch_all(&mut **connection).await,
            }
        };
        within(PAGE_TIMEOUT, "read keys of", &table.name, &self.address, reading).await
    }

    /// The rows with these keys (in ascending order, none twice), each as a JSON object; keys without a row are left out.
    /// It stops as soon as several rows have more than `budget` bytes together: more than that, and one row, is never held.
    ///
    /// # Errors
    /// [`SourceError`] names the column whose value has no form in JSON, or the key that comes twice.
    pub async fn rows(&mut self, table: &SourceTable, keys: &[i64], budget: usize) -> Result<Rows, SourceError> {
        let Some(sql) = self.rows_statement(table, keys) else { return Ok(Rows::All(HashMap::new())) };
        // The keys are part of the text, so that each statement is another one: not worth a cached plan.
        let query = AssertSqlSafe(sql);
        let mut page =
            Page { table, address: &self.address, budget, bytes: 0, rows: HashMap::with_capacity(keys.len()) };
        let reading = async {
            match &mut self.connection {
                Connection::MySql(connection) => {
                    let stream = sqlx::query(query).persistent(false).fetch(&mut **connection);
                    page.fill(stream, encode_mysql, |row| row.try_get(0)).await
                }
                Connection::Postgres(connection) => {
                    let stream = sqlx::query(query).persistent(false).fetch(&mut **connection);
                    page.fill(stream, encode_postgres, |row| row.try_get(0)).await
                }
            }
        };
        match tokio::time::timeout(PAGE_TIMEOUT, reading).await {
            Ok(Ok(true)) => Ok(Rows::All(page.rows)),
            Ok(Ok(false)) => Ok(Rows::TooMuch { read: page.rows.len() }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SourceError::TimedOut { action: READ_ROWS, table: table.name.clone(), limit: PAGE_TIMEOUT }),
        }
    }

    fn rows_statement(&self, table: &SourceTable, keys: &[i64]) -> Option<String> {
        let (&first, &last) = (keys.first()?, keys.last()?);
        let key = self.quoted(&table.key);
        let mut sql = format!("SELECT {}", self.integer(&key));
        for (column, kind) in table.columns.iter().zip(&table.kinds) {
            let column = self.quoted(column);
            let cast = if *kind == Kind::AsText { self.text(&column) } else { column };
            write!(sql, ", {cast}").expect("a String takes whatever is written");
        }
        write!(sql, " FROM {} WHERE {key} ", self.quoted_table(&table.name)).expect("a String takes it");
        let is_range = usize::try_from(last - first).is_ok_and(|span| span + 1 == keys.len());
        if is_range {
            write!(sql, "BETWEEN {first} AND {last}").expect("a String takes whatever is written");
        } else {
            let list: Vec<String> = keys.iter().map(i64::to_string).collect();
            write!(sql, "IN ({})", list.join(", ")).expect("a String takes whatever is written");
        }
        Some(sql)
    }

    /// Closes the snapshot and the connection; what fails about it harms nobody.
    pub async fn close(self) {
        let closing = async {
            match self.connection {
                Connection::MySql(connection) => connection.close().await,
                Connection::Postgres(connection) => connection.close().await,
            }
        };
        if let Ok(Err(error)) = tokio::time::timeout(CONNECT_TIMEOUT, closing).await {
            tracing::debug!("the source's connection ended badly: {error}");
        }
    }

    fn quoted(&self, name: &str) -> String {
        match self.connection {
            Connection::MySql(_) => format!("`{}`", name.replace('`', "``")),
            Connection::Postgres(_) => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// A table may be `schema.table`.
    fn quoted_table(&self, name: &str) -> String {
        name.split('.').map(|part| self.quoted(part)).collect::<Vec<_>>().join(".")
    }

    fn integer(&self, expression: &str) -> String {
        match self.connection {
            Connection::MySql(_) => format!("CAST({expression} AS SIGNED)"),
            Connection::Postgres(_) => format!("CAST({expression} AS bigint)"),
        }
    }

    fn text(&self, expression: &str) -> String {
        match self.connection {
            Connection::MySql(_) => format!("CAST({expression} AS CHAR)"),
            Connection::Postgres(_) => format!("CAST({expression} AS text)"),
        }
    }
}

/// The rows with some keys.
pub enum Rows {
    /// All of them, by their keys.
    All(HashMap<i64, Vec<u8>>),
    /// They are too much to be held at once.
    TooMuch {
        /// How many had been read when that was clear; two at the least.
        read: usize,
    },
}

/// Rows as they are read.
struct Page<'a> {
    table: &'a SourceTable,
    address: &'a str,
    budget: usize,
    bytes: usize,
    rows: HashMap<i64, Vec<u8>>,
}

impl Page<'_> {
    /// Reads to the end, or until there is too much; `encode` writes the value at a position of a row.
    async fn fill<R>(
        &mut self,
        mut rows: impl Stream<Item = Result<R, sqlx::Error>> + Unpin,
        encode: impl Fn(&R, usize, Kind, &mut Vec<u8>) -> Result<(), String>,
        key: impl Fn(&R) -> Result<i64, sqlx::Error>,
    ) -> Result<bool, SourceError> {
        let (table, address) = (self.table, self.address);
        let failed = |source| SourceError::query(READ_ROWS, &table.name, address, source);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let object = table.object(|position, kind, out| encode(&row, position, kind, out))?;
            self.bytes += object.len();
            let key = key(&row).map_err(failed)?;
            if self.rows.insert(key, object).is_some() {
                let (table, key_column) = (table.name.clone(), table.key.clone());
                return Err(SourceError::Duplicate { table, key: key_column, value: key });
            }
            if self.bytes > self.budget && self.rows.len() > 1 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl SourceTable {
    /// Writes one row as a JSON object; `encode` writes the value at a position of the result.
    fn object(&self, encode: impl Fn(usize, Kind, &mut Vec<u8>) -> Result<(), String>) -> Result<Vec<u8>, SourceError> {
        let mut out = Vec::with_capacity(1024);
        for (position, (column, &kind)) in self.columns.iter().zip(&self.kinds).enumerate() {
            out.push(if position == 0 { b'{' } else { b',' });
            serde_json::to_writer(&mut out, column).expect("a string is JSON, and a Vec takes it");
            out.push(b':');
            // Position 0 of the result is the key.
            encode(position + 1, kind, &mut out).map_err(|problem| SourceError::Value {
                table: self.name.clone(),
                column: column.clone(),
                problem,
            })?;
        }
        out.push(b'}');
        Ok(out)
    }
}

async fn connect_mysql(url: &Url) -> Result<MySqlConnection, sqlx::Error> {
    let options = MySqlConnectOptions::from_url(url)?.charset("utf8mb4").disable_statement_logging();
    let mut connection = options.connect().await?;
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    connection.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
    Ok(connection)
}

async fn connect_postgres(url: &Url) -> Result<PgConnection, sqlx::Error> {
    let options = PgConnectOptions::from_url(url)?.application_name("pinsched").disable_statement_logging();
    let mut connection = options.connect().await?;
    let limit = sqlx::AssertSqlSafe(format!("SET statement_timeout = '{}s'", COUNT_TIMEOUT.as_secs()));
    connection.execute(sqlx::raw_sql(limit)).await?;
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    Ok(connection)
}

fn address(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or("localhost"), url.path())
}

/// Each column's name, its type's name, and how its values become JSON.
fn described<C: sqlx::Column>(
    columns: &[C],
    kind: fn(&<C::Database as sqlx::Database>::TypeInfo) -> Option<Kind>,
) -> Vec<(String, String, Option<Kind>)> {
    columns
        .iter()
        .map(|column| {
            let found = column.type_info();
            (column.name().to_owned(), found.name().to_owned(), kind(found))
        })
        .collect()
}

async fn within<T>(
    limit: Duration,
    action: &'static str,
    table: &str,
    address: &str,
    call: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, SourceError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(SourceError::query(action, table, address, source)),
        Err(_) => Err(SourceError::TimedOut { action, table: table.to_owned(), limit }),
    }
}
