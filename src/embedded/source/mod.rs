//! The embedded source database: the original's three tables, filled with rows of its shapes and frequencies.

mod rows;
mod words;

use std::fmt::Write as _;

use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, Executor, PgConnection};

use crate::connect::copy::Escaped;

pub use rows::{Post, ROWS, SEED, generate};

/// What is written beside the tables once they are whole; another text means that another version filled them.
const MARKER: &str = "pinsched source 1: 11154 rows";

/// The key of the advisory lock under which the tables are filled, so that two at once do not fill them twice.
const LOCK: i64 = 0x7069_6e73_6f75_7263; // "pinsourc"

/// Rows are sent in pieces of about this size.
const COPY_BYTES: usize = 1 << 20;

/// Why the source tables could not be filled. The database is our own, so there is nothing to tell apart.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} of the embedded source database")]
pub struct SourceDataError {
    action: &'static str,
    #[source]
    source: sqlx::Error,
}

fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> SourceDataError {
    move |source| SourceDataError { action, source }
}

/// Fills the Postgres database at `url` unless it is filled: in one transaction, so that it holds all rows or none.
///
/// # Errors
/// [`SourceDataError`] with what the database said.
pub async fn ensure(url: &SecretString) -> Result<(), SourceDataError> {
    let mut connection = PgConnection::connect(url.expose_secret()).await.map_err(failed("open the connection"))?;
    if !is_filled(&mut connection).await? {
        fill(&mut connection).await?;
    }
    connection.close().await.map_err(failed("close the connection"))
}

async fn is_filled(connection: &mut PgConnection) -> Result<bool, SourceDataError> {
    let marker: Option<String> =
        sqlx::query_scalar("SELECT obj_description(to_regclass('public.pinterest_data'), 'pg_class')")
            .fetch_one(connection)
            .await
            .map_err(failed("read the marker"))?;
    Ok(marker.as_deref() == Some(MARKER))
}

async fn fill(connection: &mut PgConnection) -> Result<(), SourceDataError> {
    let mut transaction = connection.begin().await.map_err(failed("begin the filling"))?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await
        .map_err(failed("lock the tables"))?;
    if is_filled(&mut transaction).await? {
        return transaction.rollback().await.map_err(failed("leave the tables"));
    }
    transaction.execute(TABLES).await.map_err(failed("create the tables"))?;
    let tables: [(&str, Line); 3] =
        [("pinterest_data", pin_line), ("geolocation_data", geo_line), ("user_data", user_line)];
    let posts: Vec<Post> = generate(ROWS, SEED).collect();
    for (table, line) in tables {
        let mut copy =
            transaction.copy_in_raw(&format!("COPY {table} FROM STDIN")).await.map_err(failed("fill the tables"))?;
        let mut lines = String::with_capacity(COPY_BYTES * 2);
        for post in &posts {
            line(post, &mut lines);
            if lines.len() >= COPY_BYTES {
                copy.send(lines.as_bytes()).await.map_err(failed("fill the tables"))?;
                lines.clear();
            }
        }
        copy.send(lines.as_bytes()).await.map_err(failed("fill the tables"))?;
        copy.finish().await.map_err(failed("fill the tables"))?;
    }
    let mark = sqlx::AssertSqlSafe(format!("COMMENT ON TABLE pinterest_data IS '{MARKER}'; ANALYZE"));
    transaction.execute(sqlx::raw_sql(mark)).await.map_err(failed("mark the tables"))?;
    transaction.commit().await.map_err(failed("commit the tables"))
}

/// Writes a post's row in one table as a line of COPY.
type Line = fn(&Post, &mut String);

/// Names, order and kinds of the original's columns; the keys are primary keys, as reading in ranges wants them.
const TABLES: &str = "
DROP TABLE IF EXISTS pinterest_data, geolocation_data, user_data;
CREATE TABLE pinterest_data (
    index integer PRIMARY KEY, unique_id text, title text, description text, poster_name text, follower_count text,
    tag_list text, is_image_or_video text, image_src text, downloaded integer, save_location text, category text
);
CREATE TABLE geolocation_data (
    ind integer PRIMARY KEY, timestamp timestamp(0), latitude real, longitude real, country text
);
CREATE TABLE user_data (
    ind integer PRIMARY KEY, first_name text, last_name text, age integer, date_joined timestamp(0)
);
";

fn pin_line(post: &Post, lines: &mut String) {
    line(
        lines,
        &[
            &post.index,
            &post.unique_id,
            &Escaped(&post.title),
            &Escaped(&post.description),
            &Escaped(&post.poster_name),
            &Escaped(&post.follower_count),
            &Escaped(&post.tag_list),
            &post.is_image_or_video,
            &post.image_src,
            &post.downloaded,
            &post.save_location,
            &post.category,
        ],
    );
}

fn geo_line(post: &Post, lines: &mut String) {
    line(lines, &[&post.index, &post.timestamp, &post.latitude, &post.longitude, &post.country]);
}

fn user_line(post: &Post, lines: &mut String) {
    let (first, last) = (Escaped(&post.first_name), Escaped(&post.last_name));
    line(lines, &[&post.index, &first, &last, &post.age, &post.date_joined]);
}

fn line(lines: &mut String, fields: &[&dyn std::fmt::Display]) {
    for (position, field) in fields.iter().enumerate() {
        let separator = if position == 0 { "" } else { "\t" };
        write!(lines, "{separator}{field}").expect("a String takes whatever is written");
    }
    lines.push('\n');
}
