//! What happens to tokens after they were given out.

use super::*;

async fn refresh(stage: &Stage, client: &str, token: &Value) -> Result<Value, AwsError> {
    let body = json!({ "ClientId": client, "RefreshToken": token });
    Ok(stage.call("GetTokensFromRefreshToken", body).await?["AuthenticationResult"].take())
}

#[tokio::test]
async fn a_refresh_token_gives_fresh_tokens_with_the_groups_of_now() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let first = stage.sign_in("ann@example.com").await;
    let before = stage.claims(&first["IdToken"]);
    stage.pass(600);
    stage.add_to("ann@example.com", "paid-tier").await;
    let body = json!({ "ClientId": CLIENT, "AuthFlow": "REFRESH_TOKEN_AUTH",
        "AuthParameters": { "REFRESH_TOKEN": first["RefreshToken"] } });
    let refreshed = stage.call("InitiateAuth", body).await.unwrap()["AuthenticationResult"].take();
    assert!(refreshed["RefreshToken"].is_null());
    let after = stage.claims(&refreshed["IdToken"]);
    assert_eq!(after["cognito:preferred_role"], PAID);
    assert_eq!((&after["auth_time"], &after["origin_jti"]), (&before["auth_time"], &before["origin_jti"]));
    assert_eq!(after["exp"].as_u64().unwrap(), before["exp"].as_u64().unwrap() + 600);

    assert_eq!(refused(refresh(&stage, LEGACY_CLIENT, &first["RefreshToken"]).await).1, "Invalid Refresh Token");
    stage.pass(REFRESH_S - 600);
    assert_eq!(refused(refresh(&stage, CLIENT, &first["RefreshToken"]).await).1, "Refresh Token has expired");
    let access = json!({ "AccessToken": first["AccessToken"] });
    assert_eq!(refused(stage.call("GetUser", access).await).1, "Access Token has expired");
}

#[tokio::test]
async fn revocation_ends_one_sign_in_and_a_global_sign_out_all() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let mut sign_ins = Vec::new();
    for _ in 0..3 {
        sign_ins.push(stage.sign_in("ann@example.com").await);
    }
    let get_user = |at: usize| stage.call("GetUser", json!({ "AccessToken": sign_ins[at]["AccessToken"] }));
    let revoke = |client: &str, token: &Value| stage.call("RevokeToken", json!({ "ClientId": client, "Token": token }));

    assert_eq!(refused(revoke(LEGACY_CLIENT, &sign_ins[0]["RefreshToken"]).await).0, "UnauthorizedException");
    let not_refresh = refused(revoke(CLIENT, &sign_ins[0]["AccessToken"]).await);
    assert_eq!(not_refresh.0, "UnsupportedTokenTypeException");
    revoke(CLIENT, &json!("nothing")).await.unwrap();
    revoke(CLIENT, &sign_ins[0]["RefreshToken"]).await.unwrap();
    let revoked = refused(refresh(&stage, CLIENT, &sign_ins[0]["RefreshToken"]).await);
    assert_eq!(revoked, ("NotAuthorizedException", "Refresh Token has been revoked".into()));
    assert_eq!(refused(get_user(0).await).1, "Access Token has been revoked");
    get_user(1).await.unwrap();
    refresh(&stage, CLIENT, &sign_ins[1]["RefreshToken"]).await.unwrap();

    stage.call("GlobalSignOut", json!({ "AccessToken": sign_ins[1]["AccessToken"] })).await.unwrap();
    for (at, sign_in) in sign_ins.iter().enumerate() {
        assert_eq!(refused(get_user(at).await).1, "Access Token has been revoked");
        let refused = refused(refresh(&stage, CLIENT, &sign_in["RefreshToken"]).await);
        assert_eq!(refused.1, "Refresh Token has been revoked");
    }
    let again = stage.sign_in("ann@example.com").await;
    stage.admin("AdminUserGlobalSignOut", json!({ "Username": "ann@example.com" })).await.unwrap();
    assert_eq!(refused(refresh(&stage, CLIENT, &again["RefreshToken"]).await).0, "NotAuthorizedException");
}

#[tokio::test]
async fn rotation_replaces_the_refresh_token_and_notices_reuse() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let first = stage.sign_in_at(ROTATING_CLIENT, "ann@example.com", PASSWORD).await.unwrap();
    let old_flow = json!({ "ClientId": ROTATING_CLIENT, "AuthFlow": "REFRESH_TOKEN_AUTH",
        "AuthParameters": { "REFRESH_TOKEN": first["RefreshToken"] } });
    assert_eq!(refused(stage.call("InitiateAuth", old_flow).await).0, "InvalidParameterException");

    let second = refresh(&stage, ROTATING_CLIENT, &first["RefreshToken"]).await.unwrap();
    assert_ne!(second["RefreshToken"], first["RefreshToken"]);
    stage.pass(29);
    let retried = refresh(&stage, ROTATING_CLIENT, &first["RefreshToken"]).await.unwrap();
    assert!(retried["RefreshToken"].is_string(), "a lost reply is made good within the grace");
    stage.pass(2);
    let reused = refused(refresh(&stage, ROTATING_CLIENT, &first["RefreshToken"]).await);
    assert_eq!(reused.0, "RefreshTokenReuseException");
    let third = refresh(&stage, ROTATING_CLIENT, &retried["RefreshToken"]).await.unwrap();
    assert_eq!(stage.claims(&third["IdToken"])["origin_jti"], stage.claims(&first["IdToken"])["origin_jti"]);
    // The family keeps the first token's end.
    stage.pass(REFRESH_S - 31);
    let expired = refused(refresh(&stage, ROTATING_CLIENT, &third["RefreshToken"]).await);
    assert_eq!(expired.1, "Refresh Token has expired");
}

#[tokio::test]
async fn disabled_and_deleted_users_are_out() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let tokens = stage.sign_in("ann@example.com").await;
    let named = json!({ "Username": "ann@example.com" });
    stage.admin("AdminDisableUser", named.clone()).await.unwrap();
    let access = json!({ "AccessToken": tokens["AccessToken"] });
    assert_eq!(refused(stage.sign_in_at(CLIENT, "ann@example.com", PASSWORD).await).1, "User is disabled.");
    assert_eq!(refused(stage.call("GetUser", access.clone()).await).1, "User is disabled.");
    assert_eq!(refused(refresh(&stage, CLIENT, &tokens["RefreshToken"]).await).1, "User is disabled.");
    stage.admin("AdminEnableUser", named).await.unwrap();
    assert_eq!(refused(refresh(&stage, CLIENT, &tokens["RefreshToken"]).await).1, "Refresh Token has been revoked");
    let tokens = stage.sign_in("ann@example.com").await;
    stage.call("DeleteUser", json!({ "AccessToken": tokens["AccessToken"] })).await.unwrap();
    assert_eq!(refused(refresh(&stage, CLIENT, &tokens["RefreshToken"]).await).0, "UserNotFoundException");
    assert_eq!(refused(stage.call("GetUser", access).await).0, "UserNotFoundException");
    stage.sign_up("ann@example.com").await.unwrap();
}

#[tokio::test]
async fn a_user_changes_the_password_knowing_the_old_one() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let tokens = stage.sign_in("ann@example.com").await;
    let change = |old: &str, new: &str| {
        let body = json!({ "AccessToken": tokens["AccessToken"], "PreviousPassword": old, "ProposedPassword": new });
        stage.call("ChangePassword", body)
    };
    assert_eq!(refused(change("wrong", "Another-2026").await).1, "Incorrect username or password.");
    assert_eq!(refused(change(PASSWORD, "short").await).0, "InvalidPasswordException");
    change(PASSWORD, "Another-2026").await.unwrap();
    stage.sign_in_at(CLIENT, "ann@example.com", "Another-2026").await.unwrap();
    refresh(&stage, CLIENT, &tokens["RefreshToken"]).await.unwrap();
}

#[tokio::test]
async fn sign_ins_of_one_user_are_bounded_and_the_oldest_go() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let first = stage.sign_in("ann@example.com").await;
    for _ in 0..100 {
        stage.sign_in("ann@example.com").await;
    }
    assert_eq!(refused(refresh(&stage, CLIENT, &first["RefreshToken"]).await).1, "Invalid Refresh Token");
}
