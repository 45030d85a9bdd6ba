//! The steps about people: accounts, sign-ins, tiers.

use super::super::super::client::{answer, unary};
use super::{ADA, FREE_TIER, PAID_TIER, Play, Told, failed, must_have_groups};
use crate::api::v1;

pub(super) async fn start_cloud(play: &mut Play<'_>) -> Told {
    let url = play.stage.start_cloud().await?.url().to_owned();
    Ok(format!("rehearses deploy/aws/template.yaml at {url}"))
}

pub(super) async fn start_daemon(play: &mut Play<'_>) -> Told {
    play.client = Some(play.stage.start_daemon().await?);
    Ok(format!("answers on {}", play.stage.socket().display()))
}

pub(super) async fn sign_up(play: &mut Play<'_>) -> Told {
    let done = play.create_account(ADA).await?;
    let delivery = done.code_delivery.unwrap_or_default();
    Ok(format!("{ADA}; a code went to {} ({})", delivery.destination, delivery.medium))
}

pub(super) async fn confirm(play: &mut Play<'_>) -> Told {
    play.confirm_account(ADA).await?;
    play.billing()?.add_to_group(ADA, FREE_TIER).await.map_err(|refusal| failed(&refusal))?;
    Ok(format!("with the code from the outbox; the backend adds it to {FREE_TIER}"))
}

pub(super) async fn sign_in(play: &mut Play<'_>) -> Told {
    play.session = play.enter(ADA).await?;
    must_have_groups(&play.session, &[FREE_TIER])?;
    Ok(format!("{FREE_TIER}; identity {}", play.session.identity_id))
}

pub(super) async fn pay(play: &mut Play<'_>) -> Told {
    let billing = play.billing()?;
    billing.add_to_group(ADA, PAID_TIER).await.map_err(|refusal| failed(&refusal))?;
    billing.remove_from_group(ADA, FREE_TIER).await.map_err(|refusal| failed(&refusal))?;
    let request = v1::RefreshSessionRequest { name: play.session.name.clone() };
    let done = answer("refresh the session", play.client()?.sessions().refresh_session(unary(request)).await)?;
    let session = done.session.unwrap_or_default();
    must_have_groups(&session, &[PAID_TIER])?;
    Ok(format!("moved to {PAID_TIER} by the admin group calls; the next token says so"))
}
