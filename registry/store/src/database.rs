//! The file itself: opening it, bringing it to this version, closing it.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, Row as _, SqlSafeStr as _, Sqlite, Transaction};

use crate::device::Devices;
use crate::error::{ErrorContext, StoreError};
use crate::join_code::JoinCodes;
use crate::peer::Peers;
use crate::policy_address::PolicyAddresses;

/// How long a write waits for another process that holds the lock, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads that may go on side by side; more wait their turn.
const READERS: u32 = 4;

/// The newest version that this program knows.
const VERSION: i64 = 2;

/// An open database. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    /// One connection, so that writes queue here and not in SQLite's busy loop.
    writer: SqlitePool,
    reader: SqlitePool,
    context: ErrorContext,
}

impl Store {
    /// Opens the database at `path`, creating it when it is missing, and brings it to this program's version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let context = ErrorContext {
            path: path.to_owned(),
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let during_open = "open the database";
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            // SQLite itself undoes a transaction that fails for want of space, and the connection goes on
            // believing that it is inside; such a connection is replaced.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect_with(options.clone())
            .await
            .map_err(context.during(during_open))?;
        migrate(&writer, &context).await?;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.create_if_missing(false))
            .await
            .map_err(context.during(during_open))?;
        Ok(Self {
            writer,
            reader,
            context,
        })
    }

    /// Writes everything back to the one file and closes it. Functions of clones fail from then on.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Whether the database answers.
    pub async fn check(&self) -> Result<(), StoreError> {
        let what = "ask the database whether it answers";
        sqlx::query("SELECT 1")
            .execute(&self.reader)
            .await
            .map_err(self.context.during(what))?;
        Ok(())
    }

    pub fn join_codes(&self) -> JoinCodes<'_> {
        JoinCodes(self)
    }

    pub fn devices(&self) -> Devices<'_> {
        Devices(self)
    }

    pub fn policy_addresses(&self) -> PolicyAddresses<'_> {
        PolicyAddresses(self)
    }

    pub fn peers(&self) -> Peers<'_> {
        Peers(self)
    }

    pub(crate) fn context(&self) -> &ErrorContext {
        &self.context
    }

    pub(crate) fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// A transaction that holds the write lock from its beginning. Dropped before `commit`, it changes nothing.
    pub(crate) async fn change(
        &self,
        what: &'static str,
    ) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(self.context.during(what))
    }

    #[cfg(test)]
    pub(crate) fn writer(&self) -> &SqlitePool {
        &self.writer
    }
}

/// Ends a change; until this has answered, nothing of it is on the disk.
pub(crate) async fn commit(
    transaction: Transaction<'static, Sqlite>,
    context: &ErrorContext,
    what: &'static str,
) -> Result<(), StoreError> {
    transaction.commit().await.map_err(context.during(what))
}

async fn migrate(pool: &SqlitePool, context: &ErrorContext) -> Result<(), StoreError> {
    let what = "bring the database to this version";
    let during = context.during(what);
    let all = migrations();
    refuse_newer(pool, context).await?;
    let error = match Migrator::with_migrations(all).run(pool).await {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let path = context.path.clone();
    Err(match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => during(error),
        MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => {
            StoreError::Foreign { path, version }
        }
        other => StoreError::Query {
            what,
            path,
            source: Box::new(other),
        },
    })
}

/// Every change of the tables, oldest first. One that was shipped is never edited.
fn migrations() -> Vec<Migration> {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    vec![
        migration(1, "first", include_str!("../migrations/sqlite/0001_first.sql")),
        migration(
            VERSION,
            "peers",
            include_str!("../migrations/sqlite/0002_peers.sql"),
        ),
    ]
}

/// Looks before anything is changed, because an older program must leave a newer database as it is.
async fn refuse_newer(pool: &SqlitePool, context: &ErrorContext) -> Result<(), StoreError> {
    let during = context.during("read the version of the database");
    let table = sqlx::query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'")
        .fetch_optional(pool)
        .await
        .map_err(&during)?;
    if table.is_none() {
        return Ok(());
    }
    let row = sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM _sqlx_migrations")
        .fetch_one(pool)
        .await
        .map_err(&during)?;
    let found: i64 = row.try_get("version").map_err(&during)?;
    if found > VERSION {
        return Err(StoreError::Newer {
            path: context.path.clone(),
            found,
            known: VERSION,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use orfe_protocol::id::JoinCodeId;
    use orfe_protocol::join_code::JoinSecretHash;
    use orfe_protocol::tag::Tags;

    use super::*;
    use crate::join_code::NewJoinCode;

    async fn open() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("registry.sqlite")).await.unwrap();
        (folder, store)
    }

    fn large_code() -> NewJoinCode {
        NewJoinCode {
            id: JoinCodeId::generate(),
            secret_hash: JoinSecretHash([1; 32]),
            tags: Tags::default(),
            note: "x".repeat(100_000),
            max_uses: 1,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH,
            tunnel_key: None,
        }
    }

    #[tokio::test]
    async fn writes_are_durable_and_references_are_checked() {
        let (_folder, store) = open().await;
        for (pragma, expected) in [("PRAGMA synchronous", 2), ("PRAGMA foreign_keys", 1)] {
            let row = sqlx::query(pragma).fetch_one(store.writer()).await.unwrap();
            assert_eq!(row.get::<i64, _>(0), expected, "{pragma}");
        }
        let mode: String = sqlx::query("PRAGMA journal_mode")
            .fetch_one(store.writer())
            .await
            .unwrap()
            .get(0);
        assert_eq!(mode, "wal");
    }

    #[tokio::test]
    async fn a_database_of_the_first_version_keeps_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        let first = migrations().into_iter().take(1).collect();
        Migrator::with_migrations(first).run(&pool).await.unwrap();
        let id = JoinCodeId::generate();
        sqlx::query(
            "INSERT INTO join_code (id, secret_hash, tags, note, max_uses, created_at, expires_at)
             VALUES ($1, '', '{}', 'old', 1, 0, 0)",
        )
        .bind(id.to_string())
        .execute(&pool)
        .await
        .unwrap();
        pool.close().await;

        let store = Store::open(&path).await.unwrap();
        let codes = store.join_codes().list().await.unwrap();
        assert_eq!((codes[0].id, codes[0].tunnel), (id, None));
        let ula = store.ula(1).await.unwrap();
        assert_eq!(store.ula(2).await.unwrap(), ula, "it is chosen once");
    }

    #[tokio::test]
    async fn a_full_disk_is_named_and_what_was_kept_stays() {
        let (_folder, store) = open().await;
        let small = NewJoinCode {
            note: String::new(),
            ..large_code()
        };
        store.join_codes().create(&small).await.unwrap();
        // SQLite's own limit on the size of the file fails in the same way as a full disk.
        sqlx::query("PRAGMA max_page_count = 20")
            .execute(store.writer())
            .await
            .unwrap();
        let error = store.join_codes().create(&large_code()).await.unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("space"));
        assert_eq!(store.join_codes().list().await.unwrap().len(), 1);

        sqlx::query("PRAGMA max_page_count = 1000000")
            .execute(store.writer())
            .await
            .unwrap();
        store.join_codes().create(&large_code()).await.unwrap();
    }

    #[tokio::test]
    async fn a_database_that_may_only_be_read_is_named() {
        let (_folder, store) = open().await;
        sqlx::query("PRAGMA query_only = 1")
            .execute(store.writer())
            .await
            .unwrap();
        let error = store.join_codes().create(&large_code()).await.unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_newer_database_is_refused_and_left_alone() {
        let (folder, store) = open().await;
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (7, 'from the future', 1, x'00', 0)",
        )
        .execute(store.writer())
        .await
        .unwrap();
        store.close().await;
        let error = Store::open(&folder.path().join("registry.sqlite"))
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Newer {
                    found: 7,
                    known: VERSION,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.hint().unwrap().contains("version"));
    }

    #[tokio::test]
    async fn a_database_of_another_program_is_refused() {
        let (folder, store) = open().await;
        sqlx::query("UPDATE _sqlx_migrations SET checksum = x'00'")
            .execute(store.writer())
            .await
            .unwrap();
        store.close().await;
        let error = Store::open(&folder.path().join("registry.sqlite"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, StoreError::Foreign { version: 1, .. }),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn another_process_that_holds_the_lock_is_named() {
        let (folder, store) = open().await;
        let path = folder.path().join("registry.sqlite");
        let impatient = SqliteConnectOptions::new()
            .filename(&path)
            .busy_timeout(Duration::ZERO);
        let other = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(impatient)
            .await
            .unwrap();
        let held = store.change("hold the lock").await.unwrap();
        let error = other.begin_with("BEGIN IMMEDIATE").await.map(drop).unwrap_err();
        let error = store.context.during("write")(error);
        assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
        drop(held);
    }

    #[tokio::test]
    async fn a_damaged_row_is_an_error_that_names_the_column() {
        let (_folder, store) = open().await;
        store.join_codes().create(&large_code()).await.unwrap();
        sqlx::query("UPDATE join_code SET tags = '{'")
            .execute(store.writer())
            .await
            .unwrap();
        let error = store.join_codes().list().await.unwrap_err();
        assert!(
            matches!(error, StoreError::Content { column: "tags", .. }),
            "{error:?}"
        );
    }
}
