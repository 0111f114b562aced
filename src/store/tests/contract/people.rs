use domain::access::{Invitation, Purpose, User};
use domain::{Digest, OrgId, Role, Timestamp};
use store::testing::{self, seed};
use store::{Accepted, Error, Store};

fn later(seconds: i64) -> Timestamp {
    Timestamp(seed::now().0 + seconds * 1_000_000)
}

fn invitation(email: &str, purpose: Purpose) -> Invitation {
    let id: domain::InvitationId = seed::id();
    Invitation {
        id,
        token_hash: Digest::of(id.0.as_bytes()),
        email: email.into(),
        purpose,
        created_by: None,
        expires_at: later(60),
        used_at: None,
        inserted_at: seed::now(),
    }
}

async fn org_of(s: &Store, admin: &User) -> OrgId {
    let org = seed::org();
    s.insert_user(admin.clone(), seed::write()).await.unwrap();
    s.found_org(org.clone(), admin.id, seed::write()).await.unwrap();
    org.id
}

fn session_of(user: &User) -> domain::access::UserSession {
    let id: domain::SessionId = seed::id();
    domain::access::UserSession {
        id,
        user: user.id,
        token_hash: Digest::of(id.0.as_bytes()),
        csrf_hash: Digest::of(b"c"),
        created_at: seed::now(),
        last_used_at: seed::now(),
        expires_at: later(60),
    }
}

#[tokio::test]
async fn an_organisation_keeps_an_administrator() {
    testing::for_each_backend(|s| async move {
        let (a, b) = (seed::user("a@example.org"), seed::user("b@example.org"));
        let org = org_of(&s, &a).await;
        let last = Err(Error::Conflict("last_admin"));
        assert_eq!(s.set_member(a.id, org, Role::Operator, seed::write()).await, last);
        assert_eq!(s.remove_member(a.id, org, seed::write()).await, last);
        s.insert_user(b.clone(), seed::write()).await.unwrap();
        s.set_member(b.id, org, Role::Admin, seed::write()).await.unwrap();
        // Both at once: one of them stays.
        let (one, two) = tokio::join!(
            s.set_member(a.id, org, Role::Reader, seed::write()),
            s.remove_member(b.id, org, seed::write())
        );
        assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
        assert_eq!(s.set_member(b.id, seed::id(), Role::Reader, seed::write()).await, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn the_installation_keeps_an_administrator() {
    testing::for_each_backend(|s| async move {
        let admin = User { instance_admin: true, ..seed::user("a@example.org") };
        s.insert_user(admin.clone(), seed::write()).await.unwrap();
        let last = s.set_disabled(admin.id, Some(seed::now()), seed::write()).await;
        assert_eq!(last, Err(Error::Conflict("last_admin")));
        let other = User { instance_admin: true, ..seed::user("b@example.org") };
        s.insert_user(other, seed::write()).await.unwrap();
        assert!(s.set_disabled(admin.id, Some(seed::now()), seed::write()).await.unwrap());
        assert!(!s.set_disabled(admin.id, Some(seed::now()), seed::write()).await.unwrap());
        assert!(s.set_disabled(admin.id, None, seed::write()).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn an_invitation_is_accepted_once_and_before_it_expires() {
    testing::for_each_backend(|s| async move {
        let org = org_of(&s, &seed::user("a@example.org")).await;
        let join = Purpose::Join { org, role: Role::Operator };
        let stale = invitation("new@example.org", join);
        s.insert_invitation(stale.clone(), seed::write()).await.unwrap();
        let i = invitation("new@example.org", join);
        s.insert_invitation(i.clone(), seed::write()).await.unwrap();
        assert_eq!(s.invitation_by_hash(stale.token_hash).await, Err(Error::NotFound), "a newer one takes its place");
        assert_eq!(s.invitations(org).await.unwrap(), vec![i.clone()]);
        let person = seed::user("new@example.org");
        let late = store::Write::at(later(60));
        assert_eq!(s.accept_invitation(i.id, person.clone(), late).await, Err(Error::Conflict("token")));
        let both = tokio::join!(
            s.accept_invitation(i.id, person.clone(), seed::write()),
            s.accept_invitation(i.id, person.clone(), seed::write())
        );
        let good = [both.0, both.1].into_iter().filter(|r| *r == Ok(Accepted::Made(person.clone()))).count();
        assert_eq!(good, 1);
        assert_eq!(s.memberships(person.id).await.unwrap()[0].role, Role::Operator);
        assert!(s.invitations(org).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_invitation_takes_no_role_away_and_is_for_whom_it_names() {
    testing::for_each_backend(|s| async move {
        let admin = seed::user("a@example.org");
        let org = org_of(&s, &admin).await;
        let i = invitation("a@example.org", Purpose::Join { org, role: Role::Reader });
        s.insert_invitation(i.clone(), seed::write()).await.unwrap();
        let stranger = seed::user("a@example.org");
        assert_eq!(s.accept_invitation(i.id, stranger, seed::write()).await, Err(Error::Conflict("email")));
        let known = s.accept_invitation(i.id, admin.clone(), seed::write()).await;
        assert_eq!(known, Ok(Accepted::Known(admin.clone())));
        assert_eq!(s.memberships(admin.id).await.unwrap()[0].role, Role::Admin);
        let gone = invitation("z@example.org", Purpose::Join { org, role: Role::Reader });
        s.insert_invitation(gone.clone(), seed::write()).await.unwrap();
        s.delete_org(org, seed::write()).await.unwrap();
        let late = s.accept_invitation(gone.id, seed::user("z@example.org"), seed::write()).await;
        assert_eq!(late, Err(Error::Conflict("token")));
        assert_eq!(s.invitation_by_hash(gone.token_hash).await, Ok(gone), "a refused link is not used up");
    })
    .await;
}

#[tokio::test]
async fn a_new_password_ends_the_sessions_of_the_old_one() {
    testing::for_each_backend(|s| async move {
        let user = seed::user("a@example.org");
        org_of(&s, &user).await;
        let (here, there) = (session_of(&user), session_of(&user));
        for session in [&here, &there] {
            s.insert_session(session.clone(), seed::write()).await.unwrap();
        }
        let reset = invitation("a@example.org", Purpose::Password { user: user.id });
        s.insert_invitation(reset.clone(), seed::write()).await.unwrap();
        s.set_password(user.id, "one".into(), Some(here.id), seed::write()).await.unwrap();
        assert!(s.session_by_hash(here.token_hash).await.is_ok());
        assert_eq!(s.session_by_hash(there.token_hash).await, Err(Error::NotFound));
        let person = User { password_hash: "two".into(), ..user.clone() };
        let void = s.accept_invitation(reset.id, person.clone(), seed::write()).await;
        assert_eq!(void, Err(Error::Conflict("token")), "a link that was sent before is void");
        let reset = invitation("a@example.org", Purpose::Password { user: user.id });
        s.insert_invitation(reset.clone(), seed::write()).await.unwrap();
        s.accept_invitation(reset.id, person, seed::write()).await.unwrap();
        assert_eq!(s.user(user.id).await.unwrap().password_hash, "two");
        assert_eq!(s.session_by_hash(here.token_hash).await, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn token_keys_are_found_by_name_and_the_newest_signs() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        assert_eq!(s.newest_token_key(w.org.id).await, Ok(None));
        let key = |kid: &str, at: i64| store::TokenKey {
            id: seed::id(),
            org: w.org.id,
            kid: kid.into(),
            public: vec![1; 32],
            private: vec![2; 60],
            inserted_at: later(at),
        };
        let (old, new) = (key("old", 0), key("new", 1));
        s.insert_token_key(new.clone(), seed::write()).await.unwrap();
        s.insert_token_key(old.clone(), seed::write()).await.unwrap();
        let successor = Some(new.inserted_at);
        assert_eq!(s.newest_token_key(w.org.id).await, Ok(Some(new.clone())));
        assert_eq!(s.token_key(&new.kid).await, Ok((new, None)));
        assert_eq!(s.token_key("old").await, Ok((old, successor)));
        assert_eq!(s.token_key("none").await, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn a_network_is_known_until_it_is_pruned() {
    testing::for_each_backend(|s| async move {
        let user = seed::user("n@example.org");
        s.insert_user(user.clone(), seed::write()).await.unwrap();
        assert_eq!(s.knows_network(user.id, "192.0.2.1").await, Ok(false));
        s.note_network(user.id, "192.0.2.1", later(1)).await.unwrap();
        s.note_network(user.id, "192.0.2.1", later(5)).await.unwrap();
        assert_eq!(s.knows_network(user.id, "192.0.2.1").await, Ok(true));
        assert_eq!(s.knows_network(user.id, "192.0.2.2").await, Ok(false));
        assert_eq!(s.prune_networks(later(5)).await, Ok(0));
        assert_eq!(s.prune_networks(later(6)).await, Ok(1));
        assert_eq!(s.knows_network(user.id, "192.0.2.1").await, Ok(false));
    })
    .await;
}

#[tokio::test]
async fn a_rotated_node_key_is_found_until_its_successor_is_used() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let (node, old, new) = (w.nodes[0].id, w.nodes[0].key_hash, Digest::of(b"new"));
        let scope = domain::Scope::Project(w.project.id);
        let keep = Some(store::PreviousKey { hash: old, until: later(60), own: true });
        s.rotate_node_key(scope, node, new, keep, seed::write()).await.unwrap();
        for key in [old, new] {
            let found = s.node_credential(key).await.unwrap();
            assert_eq!((found.node, found.epoch, found.key_hash, found.previous), (node, 2, new, keep));
        }
        // What the old key was given in the meantime ends with it, and only once.
        assert_eq!(s.end_previous_key(node, seed::write()).await, Ok(3));
        assert_eq!(s.end_previous_key(node, seed::write()).await, Ok(3));
        assert_eq!(s.node_credential(old).await, Err(Error::NotFound));
        s.rotate_node_key(scope, node, Digest::of(b"newer"), None, seed::write()).await.unwrap();
        assert_eq!(s.node_credential(new).await, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn the_first_use_of_a_key_is_told_once() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let key = seed::api_key(w.org.id, None);
        s.insert_api_key(key.clone(), seed::write()).await.unwrap();
        let told = || {
            let (id, entry) = seed::entry(None, "api_key.first_used");
            seed::write().audit(id, entry)
        };
        let before = s.audit_head(None).await.unwrap().seq;
        let both = tokio::join!(s.first_use_of_api_key(key.id, told()), s.first_use_of_api_key(key.id, told()));
        assert!(both.0.is_ok() && both.1.is_ok());
        assert_eq!(s.audit_head(None).await.unwrap().seq, before + 1);
        assert_eq!(s.api_key_by_hash(key.key_hash).await.unwrap().last_used_at, Some(seed::now()));
    })
    .await;
}
