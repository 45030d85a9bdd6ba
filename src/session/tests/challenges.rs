//! Sign-ins of several steps: who may answer, how often, until when; devices that are remembered.

use super::*;

fn code(code: &str) -> BTreeMap<String, SecretString> {
    [("SMS_MFA_CODE".to_owned(), SecretString::from(code))].into()
}

impl Device {
    /// A device where "ada" has a second factor.
    async fn with_factor() -> Self {
        let device = Self::new().await;
        device.cloud.pools().factors.insert("ada".into(), "123456".into());
        device
    }

    async fn begin(&self, caller: &Caller) -> SignInProgress {
        let method = SignInMethod::Password { username: "ada".into(), password: "right".into() };
        self.sessions.sign_in(caller, None, method).await.unwrap()
    }

    async fn challenged(&self, caller: &Caller) -> ChallengeView {
        match self.begin(caller).await {
            SignInProgress::Challenged(challenge) => challenge,
            SignInProgress::SignedIn(_) => panic!("nothing was asked"),
        }
    }

    async fn answer(&self, caller: &Caller, id: &str, answer: &str) -> Result<SignInProgress, SessionError> {
        self.sessions.respond_to_challenge(caller, id, code(answer)).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_challenge_is_answered_into_a_session() {
    let device = Device::with_factor().await;
    let challenge = device.challenged(&ADA).await;
    assert_eq!((challenge.name.as_str(), challenge.answers.as_slice()), ("SMS_MFA", &["SMS_MFA_CODE".to_owned()][..]));
    assert_eq!(challenge.parameters["CODE_DELIVERY_DESTINATION"], "+***1");
    assert_eq!(challenge.expire_time, device.clock.wall() + Duration::from_secs(170));
    assert_eq!(device.sessions.count(None), 0, "not signed in yet");
    let wrong = device.answer(&ADA, &challenge.id, "000000").await.unwrap_err();
    assert!(matches!(wrong, SessionError::Token(TokenError::CodeMismatch(_))), "{wrong}");
    let session = device.answer(&ADA, &challenge.id, "123456").await.unwrap().session().unwrap();
    assert_eq!((session.subject.as_str(), session.owner_uid), ("ada", ADA.uid));
    let again = device.answer(&ADA, &challenge.id, "123456").await.unwrap_err();
    assert!(matches!(again, SessionError::ChallengeAnswered), "{again}");
    assert_eq!(device.cloud.count("answer"), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_else_and_nothing_late_is_asked_upstream() {
    let mut device = Device::with_factor().await;
    let challenge = device.challenged(&ADA).await;
    for other in [BOB, ROOT] {
        let error = device.answer(&other, &challenge.id, "123456").await.unwrap_err();
        assert!(matches!(error, SessionError::ChallengeNotFound), "{error}");
    }
    let error = device.answer(&ADA, "0123456789abcdef0123456789abcdef", "123456").await.unwrap_err();
    assert!(matches!(error, SessionError::ChallengeNotFound), "{error}");
    device.pass(Duration::from_secs(170)).await;
    let error = device.answer(&ADA, &challenge.id, "123456").await.unwrap_err();
    assert!(matches!(error, SessionError::ChallengeExpired(_)), "{error}");
    let challenge = device.challenged(&ADA).await;
    device.restart("key").await;
    let error = device.answer(&ADA, &challenge.id, "123456").await.unwrap_err();
    assert!(matches!(error, SessionError::ChallengeNotFound), "not kept over a restart: {error}");
    assert_eq!((device.cloud.count("answer"), device.sessions.count(None)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_answer_is_on_its_way_at_a_time_and_survives_its_caller() {
    let device = Device::with_factor().await;
    let challenge = device.challenged(&ADA).await;
    device.cloud.set_open(false);
    {
        let mut first = Box::pin(device.answer(&ADA, &challenge.id, "123456"));
        assert!(tokio::time::timeout(Duration::from_millis(5), &mut first).await.is_err());
        let second = device.answer(&ADA, &challenge.id, "123456").await.unwrap_err();
        assert!(matches!(second, SessionError::ChallengeBusy), "{second}");
        // The caller goes away with its answer under way.
    }
    device.cloud.set_open(true);
    let mut changed = device.sessions.changed();
    while device.sessions.count(None) == 0 {
        changed.changed().await.unwrap();
    }
    assert_eq!(device.sessions.get(&ADA, None).unwrap().subject, "ada");
    let late = device.answer(&ADA, &challenge.id, "123456").await.unwrap_err();
    assert!(matches!(late, SessionError::ChallengeAnswered), "{late}");
}

#[tokio::test(start_paused = true)]
async fn what_the_pool_has_not_taken_may_be_answered_again_and_what_it_ended_may_not() {
    let device = Device::with_factor().await;
    let challenge = device.challenged(&ADA).await;
    let text = || "why".to_owned();
    let passing = [
        TokenError::Transient(text()),
        TokenError::Throttled(text()),
        TokenError::CodeExpired(text()),
        TokenError::InvalidPassword(text()),
        TokenError::AnswerRefused(text()),
        TokenError::InvalidAnswers(Vec::new()),
    ];
    for error in passing {
        device.cloud.pools().answer_errors.push_back(error);
        device.answer(&ADA, &challenge.id, "123456").await.unwrap_err();
    }
    device.answer(&ADA, &challenge.id, "123456").await.unwrap();
    let final_ones = [
        TokenError::ChallengeOver(text()),
        TokenError::BadCredentials(text()),
        TokenError::DeviceUnknown(text()),
        TokenError::Configuration(text()),
        TokenError::ChallengeRequired { name: "WEB_AUTHN".into(), why: text() },
    ];
    for error in final_ones {
        let challenge = device.challenged(&ADA).await;
        device.cloud.pools().answer_errors.push_back(error);
        device.answer(&ADA, &challenge.id, "123456").await.unwrap_err();
        let over = device.answer(&ADA, &challenge.id, "123456").await.unwrap_err();
        assert!(matches!(over, SessionError::ChallengeExpired(_)), "{over}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_challenges_is_its_own_uids_trouble() {
    let device = Device::with_factor().await;
    let bobs = device.challenged(&BOB).await;
    let first = device.challenged(&ADA).await;
    for _ in 0..Config::default().max_challenges_per_uid {
        device.challenged(&ADA).await;
    }
    let error = device.answer(&ADA, &first.id, "123456").await.unwrap_err();
    assert!(matches!(error, SessionError::ChallengeExpired(_)), "{error}");
    device.answer(&BOB, &bobs.id, "123456").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_remembered_device_is_not_asked_again_also_after_sign_out_and_restart() {
    let mut device = Device::with_factor().await;
    device.cloud.pools().tracks_devices = true;
    let challenge = device.challenged(&ADA).await;
    device.answer(&ADA, &challenge.id, "123456").await.unwrap();
    for _ in 0..2 {
        device.begin(&ADA).await.session().expect("known: no code");
        device.sessions.sign_out(&ADA, None, SignOutUploads::Park, false).await.unwrap();
        device.restart("key").await;
    }
    device.challenged(&BOB).await;
    device.cloud.pools().devices.clear();
    let challenge = device.challenged(&ADA).await;
    device.answer(&ADA, &challenge.id, "123456").await.unwrap();
    device.begin(&ADA).await.session().expect("the new device is known");
    device.restart("another-key").await;
    device.challenged(&ADA).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_the_pool_forgot_is_forgotten_here() {
    let device = Device::with_factor().await;
    device.cloud.pools().tracks_devices = true;
    let challenge = device.challenged(&ADA).await;
    device.answer(&ADA, &challenge.id, "123456").await.unwrap();
    let kept = || {
        let files = std::fs::read_dir(device.dir.path().join("sessions")).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|ext| ext == "device")).count()
    };
    assert_eq!(kept(), 1);
    device.cloud.pools().devices.clear();
    device.cloud.pools().tracks_devices = false;
    let challenge = device.challenged(&ADA).await;
    assert_eq!(kept(), 1, "nothing is decided before the sign-in is");
    device.answer(&ADA, &challenge.id, "123456").await.unwrap();
    assert_eq!(kept(), 0);
}
