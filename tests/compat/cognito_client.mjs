// Amplify's own client (amazon-cognito-identity-js) at a user pool: SRP, authenticator app, remembered device, refresh.
// Prints one JSON object per check.
// Usage: node cognito_client.mjs '{"url":…,"pool":…,"client":…,"strict":{"url":…,"pool":…,"client":…},"judges":…,"users":…}'

import { createHmac } from "node:crypto";
import { createRequire } from "node:module";
import { join } from "node:path";

const given = JSON.parse(process.argv[2]);
const require = createRequire(join(given.judges, "node_modules", "x.js"));
const { AuthenticationDetails, CognitoUser, CognitoUserPool } = require("amazon-cognito-identity-js");

function check(what, holds, detail = "") {
  console.log(JSON.stringify({ what, holds: Boolean(holds), detail: String(detail) }));
}

function equal(what, got, wanted) {
  const [left, right] = [JSON.stringify(got), JSON.stringify(wanted)];
  check(what, left === right, `got ${left}, wanted ${right}`);
}

// What a browser would keep: a new one is another device.
class Storage {
  entries = new Map();
  getItem(key) {
    return this.entries.get(key) ?? null;
  }
  setItem(key, value) {
    this.entries.set(key, value);
  }
  removeItem(key) {
    this.entries.delete(key);
  }
  clear() {
    this.entries.clear();
  }
}

function personAt(where, name, storage) {
  const pool = new CognitoUserPool({ UserPoolId: where.pool, ClientId: where.client, endpoint: where.url, Storage: storage });
  return new CognitoUser({ Username: name, Pool: pool, Storage: storage });
}

// The library's callbacks as one promise: [which of them was called, with what].
function outcome(start) {
  return new Promise((resolve) => {
    const names = ["onSuccess", "onFailure", "totpRequired", "mfaRequired", "mfaSetup", "selectMFAType", "newPasswordRequired", "associateSecretCode"];
    const callbacks = Object.fromEntries(names.map((name) => [name, (...values) => resolve([name, ...values])]));
    callbacks.node = (error, value) => resolve(error ? ["onFailure", error] : ["onSuccess", value]);
    start(callbacks);
  });
}

const failure = ([name, error]) => (name === "onFailure" ? error.code : name);

function signIn(user, name, password) {
  return outcome((callbacks) => user.authenticateUser(new AuthenticationDetails({ Username: name, Password: password }), callbacks));
}

const BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

// RFC 6238, from the secret as the app gets it.
function totp(secret, steps) {
  let bits = "";
  for (const letter of secret) bits += BASE32.indexOf(letter).toString(2).padStart(5, "0");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => Number.parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const mac = createHmac("sha1", key).update(counter).digest();
  const number = mac.readUInt32BE(mac[mac.length - 1] & 15) & 0x7fffffff;
  return String(number % 1_000_000).padStart(6, "0");
}

const { ana, ben, cleo, password } = given.users;

// SRP.
const first = new Storage();
const kiosk = personAt(given, ana, first);
let said = await signIn(kiosk, ana, password);
equal("SRP signs in", said[0], "onSuccess");
equal("the token is the user's", said[1]?.getIdToken().payload.email, ana);
equal("the pool asks whether to remember the device", said[2], true);
equal("a wrong password", failure(await signIn(personAt(given, ana, new Storage()), ana, "Wrong-Horse-7")), "NotAuthorizedException");
equal("nobody", failure(await signIn(personAt(given, "no@example.com", new Storage()), "no@example.com", password)), "NotAuthorizedException");

// An authenticator app.
said = await outcome((callbacks) => kiosk.associateSoftwareToken(callbacks));
equal("a secret for the app", said[0], "associateSecretCode");
const secret = said[1];
check("which is base32", /^[A-Z2-7]{32,}$/.test(secret), secret.length);
equal("a wrong code", failure(await outcome((callbacks) => kiosk.verifySoftwareToken("000", "app", callbacks))), "EnableSoftwareTokenMFAException");
const used = totp(secret, 0);
equal("the app's code", (await outcome((callbacks) => kiosk.verifySoftwareToken(used, "app", callbacks)))[1]?.Status, "SUCCESS");
equal("the app is turned on", (await outcome(({ node }) => kiosk.setUserMfaPreference(null, { Enabled: true, PreferredMfa: true }, node)))[1], "SUCCESS");

// Another device: the code is asked for, and the device is remembered from then on.
const second = new Storage();
let camera = personAt(given, ana, second);
equal("another device is asked for a code", (await signIn(camera, ana, password))[0], "totpRequired");
const send = (user, code) => outcome((callbacks) => user.sendMFACode(code, callbacks, "SOFTWARE_TOKEN_MFA"));
equal("a wrong code leaves the question open", failure(await send(camera, "000")), "CodeMismatchException");
equal("a code that was used", failure(await send(camera, used)), "ExpiredCodeException");
said = await send(camera, totp(secret, 1));
equal("the right one signs in", said[0], "onSuccess");
equal("an answer that was given", failure(await send(camera, totp(secret, 1))), "NotAuthorizedException");
equal("the device is remembered", (await outcome((callbacks) => camera.setDeviceStatusRemembered(callbacks)))[1], "SUCCESS");

camera = personAt(given, ana, second);
said = await signIn(camera, ana, password);
equal("a remembered device signs in without a code", said[0], "onSuccess");
const signedIn = said[1];
const refresh = (user) => outcome(({ node }) => user.refreshSession(signedIn.getRefreshToken(), node));
said = await refresh(camera);
equal("it refreshes", said[0], "onSuccess");
check("and gets another ID token", said[1]?.getIdToken().getJwtToken() !== signedIn.getIdToken().getJwtToken());
said = await refresh(personAt(given, ana, new Storage()));
equal("its refresh token is no use elsewhere", [failure(said), said[1].message], ["NotAuthorizedException", "Invalid Refresh Token"]);

said = await outcome((callbacks) => camera.listDevices(10, null, callbacks));
equal("two devices are listed", said[1]?.Devices?.length, 2);
camera.getCachedDeviceKeyAndPassword();
const key = camera.deviceKey;
said = await outcome((callbacks) => camera.getDevice(callbacks));
const status = said[1]?.Device?.DeviceAttributes?.find(({ Name }) => Name === "dev:device_remembered_status");
equal("and shown as remembered", status?.Value, "remembered");
equal("it is forgotten", (await outcome((callbacks) => camera.forgetSpecificDevice(key, callbacks)))[1], "SUCCESS");
equal("a forgotten device is asked for a code again", (await signIn(personAt(given, ana, second), ana, password))[0], "totpRequired");
equal("and its tokens end", failure(await refresh(camera)), "NotAuthorizedException");

// A temporary password.
const invited = personAt(given, ben, new Storage());
said = await signIn(invited, ben, given.users.temporary);
equal("a temporary password has to be replaced", said[0], "newPasswordRequired");
equal("the attributes that are known", said[1]?.email, ben);
equal("and none is missing", said[2], []);
const renew = (fresh) => outcome((callbacks) => invited.completeNewPasswordChallenge(fresh, {}, callbacks));
equal("a weak one", failure(await renew("short")), "InvalidPasswordException");
equal("a good one signs in", (await renew(password))[0], "onSuccess");

// A pool that insists on a second factor.
const strict = personAt(given.strict, cleo, new Storage());
said = await signIn(strict, cleo, password);
equal("where a second factor is a must, it is set up first", said[0], "mfaSetup");
const theirs = (await outcome((callbacks) => strict.associateSoftwareToken(callbacks)))[1];
equal("a wrong code sets nothing up", failure(await outcome((callbacks) => strict.verifySoftwareToken("000", "app", callbacks))), "EnableSoftwareTokenMFAException");
said = await outcome((callbacks) => strict.verifySoftwareToken(totp(theirs, 0), "app", callbacks));
equal("the app's code signs in", said[0], "onSuccess");
const again = personAt(given.strict, cleo, new Storage());
equal("and is asked for from then on", (await signIn(again, cleo, password))[0], "totpRequired");
equal("the next code", (await send(again, totp(theirs, 1)))[0], "onSuccess");
