//! Addresses that are aliases, and passwords that administrators reset.

use super::*;

#[tokio::test]
async fn an_alias_belongs_to_who_proved_it_first_unless_the_last_one_is_to_take_it_over() {
    let mut seeds = Seeds::default();
    (seeds.user_pool.email_as_username, seeds.user_pool.email_as_alias) = (false, true);
    let stage = Stage::with(&seeds, None);
    let sign_up = |name: &str, address: &str| {
        let attributes = json!([{ "Name": "email", "Value": address }]);
        let body = json!({ "ClientId": CLIENT, "Username": name, "Password": PASSWORD, "UserAttributes": attributes });
        stage.call("SignUp", body)
    };
    let address = refused(sign_up("ann@example.com", "ann@example.com").await);
    let words = "Username cannot be of email format, since user pool is configured for email alias.";
    assert_eq!(address, ("InvalidParameterException", words.into()));
    let mut subs = Vec::new();
    for name in ["ann", "ben"] {
        subs.push(sign_up(name, "ann@example.com").await.unwrap()["UserSub"].clone());
        if name == "ann" {
            let code = stage.code("ann@example.com", CodePurpose::ConfirmSignUp);
            stage.confirm("ann", &code).await.unwrap();
        }
    }
    let signed_in = async || {
        let tokens = stage.sign_in("ANN@example.com").await;
        stage.claims(&tokens["IdToken"])["sub"].clone()
    };
    assert_eq!(signed_in().await, subs[0]);
    let code = stage.code("ann@example.com", CodePurpose::ConfirmSignUp);
    let taken = refused(stage.confirm("ben", &code).await);
    assert_eq!(taken, ("AliasExistsException", "An account with the given email already exists.".into()));
    assert_eq!(refused(stage.sign_in_at(CLIENT, "ben", PASSWORD).await).0, "UserNotConfirmedException");
    let force = json!({ "ClientId": CLIENT, "Username": "ben", "ConfirmationCode": code, "ForceAliasCreation": true });
    stage.call("ConfirmSignUp", force).await.unwrap();
    assert_eq!(signed_in().await, subs[1]);
    let ann = stage.sign_in("ann").await;
    assert_eq!(stage.claims(&ann["IdToken"])["email_verified"], false);
}

#[tokio::test]
async fn a_password_that_an_administrator_resets_is_replaced_by_a_code() {
    let stage = Stage::new();
    stage.free_user("ann@example.com").await;
    let named = json!({ "Username": "ann@example.com" });
    stage.admin("AdminResetUserPassword", named.clone()).await.unwrap();
    let wanted = ("PasswordResetRequiredException", "Password reset required for the user".to_owned());
    assert_eq!(refused(stage.sign_in_at(CLIENT, "ann@example.com", PASSWORD).await), wanted);
    let wrong = refused(stage.sign_in_at(CLIENT, "ann@example.com", "wrong").await);
    assert_eq!(wrong.1, "Incorrect username or password.");
    assert_eq!(refused(stage.admin("AdminResetUserPassword", named).await).0, "NotAuthorizedException");
    let code = stage.code("ann@example.com", CodePurpose::ResetPassword);
    let body = json!({ "ClientId": CLIENT, "Username": "ann@example.com", "ConfirmationCode": code,
        "Password": "Another-2026" });
    stage.call("ConfirmForgotPassword", body).await.unwrap();
    stage.sign_in_at(CLIENT, "ann@example.com", "Another-2026").await.unwrap();
}
