//! `orfe-registry join-code …`

use std::io::Write;

use jiff::Timestamp;
use orfe_protocol::tag::{Tag, Tags};

use super::client::Client;
use super::table::{Table, age};
use super::{CreateArgs, Failure, JoinCodeCommand, print, print_json};
use crate::api::{CreateJoinCode, CreatedJoinCode, Done, JoinCodeList};

pub(super) async fn run(
    client: &Client,
    command: &JoinCodeCommand,
    width: Option<usize>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    match command {
        JoinCodeCommand::Create(args) => create(client, args, out).await,
        JoinCodeCommand::List(format) => {
            let list: JoinCodeList = client.get("/v1/join-codes").await?;
            if format.json {
                print_json(out, &list)
            } else {
                print(out, &table(&list, Timestamp::now(), width))
            }
        }
        JoinCodeCommand::Revoke { id } => {
            let done: Done = client.post(&format!("/v1/join-codes/{id}/revoke"), &()).await?;
            print(out, &format!("join code {} is revoked\n", done.revoked))
        }
    }
}

async fn create(client: &Client, args: &CreateArgs, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let request = CreateJoinCode {
        tags: tags(&args.tags)?,
        uses: args.uses,
        ttl_s: args.ttl.whole_seconds(),
        note: args.note.clone(),
        via_tunnel: args.via_tunnel,
    };
    request.check()?;
    let created: CreatedJoinCode = client.post("/v1/join-codes", &request).await?;
    if args.format.json {
        return print_json(out, &created);
    }
    // The code alone, so that it can be piped into `orfe join -`.
    print(out, &format!("{}\n", created.code))
}

/// The tags, unless a key stands twice: which value is meant cannot be told.
pub(super) fn tags(given: &[Tag]) -> Result<Tags, Failure> {
    let mut tags = Tags::default();
    for tag in given {
        if let Some(before) = tags.get(&tag.key) {
            let message = format!(
                "tag `{}` is given twice, as `{before}` and as `{}`",
                tag.key, tag.value
            );
            return Err(Failure::usage(message).hint("give each key once"));
        }
        tags.set(tag.clone());
    }
    Ok(tags)
}

fn table(list: &JoinCodeList, now: Timestamp, width: Option<usize>) -> String {
    if list.join_codes.is_empty() {
        return "no join codes yet; `orfe-registry join-code create` makes one\n".to_owned();
    }
    let mut table = Table::new(&["ID", "STATE", "USES", "WAY", "CREATED", "EXPIRES", "TAGS", "NOTE"]);
    for code in &list.join_codes {
        table.row([
            code.id.to_string(),
            code.state.clone(),
            format!("{}/{}", code.uses, code.max_uses),
            if code.via_tunnel { "tunnel" } else { "direct" }.to_owned(),
            age(Some(code.created_at), now),
            format!("{:.0}", code.expires_at),
            code.tags.to_string(),
            code.note.clone(),
        ]);
    }
    table.render(width)
}

#[cfg(test)]
mod tests {
    use orfe_protocol::id::JoinCodeId;

    use super::*;
    use crate::api::JoinCodeView;

    #[test]
    fn codes_are_listed_without_secrets() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let code = JoinCodeView {
            id: JoinCodeId::from_bytes([1; 16]),
            state: "open".into(),
            uses: 1,
            max_uses: 3,
            via_tunnel: false,
            tags: ["owner=alice".parse().unwrap()].into_iter().collect(),
            note: "Alice's laptop".into(),
            created_at: now,
            expires_at: Timestamp::from_second(1_800_003_600).unwrap(),
            revoked_at: None,
        };
        let list = JoinCodeList {
            version: 1,
            join_codes: vec![code],
        };
        insta::assert_snapshot!(table(&list, now, None), @r"
        ID                                    STATE  USES  WAY     CREATED   EXPIRES               TAGS         NOTE
        01010101-0101-0101-0101-010101010101  open   1/3   direct  just now  2027-01-15T09:00:00Z  owner=alice  Alice's laptop
        ");
        insta::assert_snapshot!(table(&list, now, Some(80)), @r"
        ID                                    STATE  USES  WAY     CREATED
        01010101-0101-0101-0101-010101010101  open   1/3   direct  just now
          expires 2027-01-15T09:00:00Z  tags owner=alice  note Alice's laptop
        ");
        let none = JoinCodeList {
            version: 1,
            join_codes: vec![],
        };
        insta::assert_snapshot!(table(&none, now, None), @"no join codes yet; `orfe-registry join-code create` makes one");
    }
}
