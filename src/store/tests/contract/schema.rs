use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use store::testing::{self, Backend};
use store::{Error, Store, StoreConfig};

/// All migrations of one database, in their order: name and text.
fn migrations(database: &str) -> Vec<(String, String)> {
    let root = format!("{}/../../migrations/{database}", env!("CARGO_MANIFEST_DIR"));
    let mut all: Vec<(String, String)> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let up = std::fs::read_to_string(entry.path().join("up.sql")).unwrap();
            (entry.file_name().into_string().unwrap(), up)
        })
        .collect();
    all.sort();
    all
}

/// Statements without comments, types or storage options.
fn skeleton(sql: &str) -> Vec<String> {
    let text: String = sql.lines().filter(|l| !l.trim_start().starts_with("--")).collect::<Vec<_>>().join(" ");
    let text = text
        .replace("INTEGER PRIMARY KEY AUTOINCREMENT", "IDENTITY")
        .replace("BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "IDENTITY")
        .replace(" WITHOUT ROWID", "")
        .replace("CREATE UNLOGGED TABLE", "CREATE TABLE")
        .replace("PRIMARY KEY NOT NULL", "PRIMARY KEY")
        .replace(" WITH (fillfactor = 80)", "")
        .replace("DEFAULT (pg_current_xact_id()::text::bigint)", "DEFAULT 0");
    let words = text.split_whitespace().map(|w| match w.trim_end_matches([',', ';']) {
        "UUID" | "BYTEA" | "BLOB" => w.replace("UUID", "T").replace("BYTEA", "T").replace("BLOB", "T"),
        "JSON" | "TEXT" => w.replace("JSON", "T").replace("TEXT", "T"),
        _ => w.to_string(),
    });
    words.collect::<Vec<_>>().join(" ").split(';').map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect()
}

#[test]
fn the_two_schemas_differ_in_types_only() {
    let (lite, pg) = (migrations("sqlite"), migrations("postgres"));
    assert_eq!(lite.iter().map(|m| &m.0).collect::<Vec<_>>(), pg.iter().map(|m| &m.0).collect::<Vec<_>>());
    for (a, b) in lite.iter().zip(&pg) {
        assert_eq!(skeleton(&a.1), skeleton(&b.1), "{}", a.0);
    }
}

/// Does an instance of the version before lose something it uses?
fn takes_away(statement: &str) -> bool {
    let text = format!(" {} ", statement.to_uppercase());
    let says = |what: &str| text.contains(&format!(" {what} "));
    let demands = says("SET NOT NULL") || (says("ADD") && says("NOT NULL") && !says("DEFAULT"));
    says("DROP TABLE") || (says("ALTER TABLE") && (says("DROP") || says("RENAME") || demands))
}

/// Instances of the version before go on while the first new one has migrated.
#[test]
fn a_migration_takes_nothing_away_unless_its_name_says_contract() {
    for (name, up) in migrations("sqlite").into_iter().chain(migrations("postgres")) {
        for statement in skeleton(&up) {
            assert!(name.contains("contract") || !takes_away(&statement), "{name}: {statement}");
        }
    }
    for taken in [
        "DROP TABLE x",
        "ALTER TABLE x DROP COLUMN y",
        "alter table x rename to z",
        "ALTER TABLE x ALTER COLUMN y SET NOT NULL",
        "ALTER TABLE x ADD COLUMN y T NOT NULL",
    ] {
        assert!(takes_away(taken), "{taken}");
    }
    for added in ["CREATE TABLE x (y T NOT NULL)", "ALTER TABLE x ADD COLUMN y T NOT NULL DEFAULT ''", "DROP INDEX z"] {
        assert!(!takes_away(added), "{added}");
    }
}

#[tokio::test]
async fn a_migrated_store_is_ready_and_migrating_again_does_nothing() {
    testing::for_each_backend(|s| async move {
        s.ready().await.unwrap();
        assert_eq!(s.migrate().await.unwrap(), Vec::<String>::new());
        let now = s.now_from_db().await.unwrap();
        assert!(now.0 > 1_577_836_800_000_000, "{now}");
    })
    .await;
}

#[tokio::test]
async fn an_unmigrated_store_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let lite = Store::open(StoreConfig::sqlite(dir.path().join("x.db")), &prometheus::Registry::new()).await.unwrap();
    assert!(matches!(lite.ready().await, Err(Error::Unavailable(_))));
    let url = testing::empty_postgres().await;
    let pg = Store::open(StoreConfig::postgres(url), &prometheus::Registry::new()).await.unwrap();
    assert!(matches!(pg.ready().await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn many_instances_that_migrate_at_once_agree() {
    let url = testing::empty_postgres().await;
    let tasks = (0..4).map(|_| {
        let url = url.clone();
        async move {
            let s =
                Store::open(StoreConfig { pool_size: 2, ..StoreConfig::postgres(url) }, &prometheus::Registry::new())
                    .await
                    .unwrap();
            s.migrate().await.unwrap().len()
        }
    });
    let applied: usize = futures_util::future::join_all(tasks).await.into_iter().sum();
    assert_eq!(applied, migrations("postgres").len());
}

/// It may not be started; one that runs already goes on.
async fn refused(s: &Store) {
    s.ready().await.unwrap();
    match s.migrate().await {
        Err(e @ Error::Newer { .. }) => {
            let text = e.to_string();
            assert!(text.contains("99990101000000") && text.contains("newer than this sentinel-cp"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_older_binary_refuses_a_newer_schema() {
    let s = testing::open(Backend::Postgres).await;
    let (client, link) = tokio_postgres::connect(&s.url(), tokio_postgres::NoTls).await.unwrap();
    let insert = client.batch_execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')");
    tokio::select! { r = insert => r.unwrap(), _ = link => unreachable!() };
    refused(&s).await;

    let s = testing::open(Backend::Sqlite).await;
    let path = s.dir().unwrap().join("sentinel.db");
    let mut c = SqliteConnection::establish(&path.to_string_lossy()).unwrap();
    c.batch_execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')").unwrap();
    refused(&s).await;
}

#[tokio::test]
async fn a_second_server_on_one_data_directory_is_refused_until_the_first_ends() {
    let s = testing::open(Backend::Sqlite).await;
    match s.again().await {
        Err(Error::Unavailable(text)) => assert!(text.contains("another sentinel-cp"), "{text}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
    s.store.clone().close().await;
    assert!(matches!(s.ready().await, Err(Error::Unavailable(_))));
    s.again().await.unwrap().ready().await.unwrap();
}

#[tokio::test]
async fn the_database_url_chooses_the_backend() {
    assert_eq!(
        StoreConfig::from_url("sqlite:///a/b.db").unwrap().database,
        store::Database::Sqlite { path: "/a/b.db".into() }
    );
    assert!(matches!(StoreConfig::from_url("postgres://h/d").unwrap().database, store::Database::Postgres { .. }));
    assert!(matches!(StoreConfig::from_url("mysql://h/d"), Err(Error::Invalid(_))));
}

#[tokio::test]
async fn everything_works_without_the_statement_cache() {
    let s = testing::open_with(Backend::Postgres, |c| c.statement_cache = false).await;
    let w = testing::seed::world(&s, 3).await;
    assert_eq!(s.node_stats(w.project.id).await.unwrap().total, 3);
    assert_eq!(s.candidates(w.project.id).await.unwrap().len(), 3);
}

/// Of its own, and behind a pooler, where each transaction brings them along.
#[tokio::test]
async fn every_session_has_its_time_limits() {
    for own_session in [true, false] {
        let s = testing::open_with(Backend::Postgres, |c| {
            c.op_timeout = std::time::Duration::from_secs(9);
            c.statement_cache = own_session;
        })
        .await;
        for (name, limit) in
            [("statement_timeout", "9s"), ("lock_timeout", "3s"), ("idle_in_transaction_session_timeout", "2s")]
        {
            assert_eq!(s.session_setting(name).await.unwrap(), limit, "{name}, own session: {own_session}");
        }
    }
}
