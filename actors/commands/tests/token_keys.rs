//! Which keys tokens of nodes are believed by, as keys get successors.

use super::*;
use crate::tokens::{Claims, sign};
use ::bundle::keys::PublicKey;
use ed25519_dalek::SigningKey;
use store::TokenKey;

/// A key that somebody else holds a copy of.
async fn leaked(w: &World, secret: u8) -> (String, SigningKey) {
    let key = SigningKey::from_bytes(&[secret; 32]);
    let public = PublicKey(key.verifying_key().to_bytes());
    let (kid, at) = (public.key_id(), w.plane.now());
    let row = TokenKey {
        id: seed::id(),
        org: w.org,
        kid: kid.clone(),
        public: public.0.to_vec(),
        private: vec![0; 60],
        inserted_at: at,
    };
    w.plane.store().insert_token_key(row, Write::at(at)).await.unwrap();
    (kid, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_has_a_successor_signs_no_more() {
    on_both(|w| async move {
        let node = w.node("n1").await;
        let (kid, key) = leaked(&w, 1).await;
        let token = |at| sign(&key, &kid, &Claims::new(node.node, node.org, node.epoch, at));
        let believed = async |token: String| w.plane.node_auth_by_token(&token).await.unwrap().is_some();
        let before = w.plane.now();
        assert!(believed(token(before)).await, "the newest key");

        w.hand.advance(Span::secs(3_600));
        // As after a change of the master key: the old one cannot be unsealed, so another is made.
        let (newer, _) = leaked(&w, 2).await;
        assert_ne!(newer, kid);
        w.hand.advance(Span::secs(600));
        let now = w.plane.now();
        assert!(!believed(token(now)).await, "whoever has the old key makes no token with it");
        // Those that it signed while it counted are good until they end, which is hours.
        assert!(believed(token(before + Span::secs(60))).await);
        let late = before + Span::secs(13 * 3_600);
        w.hand.advance(Span(late.0 - now.0));
        assert!(!believed(token(before + Span::secs(60))).await);
        w.end().await;
    })
    .await;
}
