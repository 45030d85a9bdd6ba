// A person in front of headless Chromium, at the hosted sign-in page. Prints one JSON object per check.
// Usage: node hosted_page.mjs '{"url":…,"client":…,"callback":…,"signedOut":…,"judges":…,"artefacts":…,"chromium":…,"mockPort":…,
//   "tidegate":…,"socket":…,"daemons":…}'

import { createHash, randomBytes } from "node:crypto";
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const given = JSON.parse(process.argv[2]);
const require = createRequire(join(given.judges, "node_modules", "x.js"));
const { chromium } = require("playwright-core");
const { OAuth2Server } = await import(pathToFileURL(require.resolve("oauth2-mock-server")).href);

const PASSWORD = "Correct-Horse-7";
const verifier = randomBytes(32).toString("base64url");
const complaints = [];

function check(what, holds, detail = "") {
  console.log(JSON.stringify({ what, holds: Boolean(holds), detail: String(detail) }));
}

function equal(what, got, wanted) {
  check(what, got === wanted, `got ${JSON.stringify(got)}, wanted ${JSON.stringify(wanted)}`);
}

function authorize(extra = {}) {
  const fields = {
    client_id: given.client,
    redirect_uri: given.callback,
    response_type: "code",
    scope: "openid email",
    state: "a state & more",
    nonce: "n-1",
    code_challenge: createHash("sha256").update(verifier).digest("base64url"),
    code_challenge_method: "S256",
    ...extra,
  };
  return `${given.url}/oauth2/authorize?${new URLSearchParams(fields)}`;
}

// The app: a page that the browser ends at.
const app = createServer((request, response) => {
  response.setHeader("content-type", "text/html");
  response.end("<!doctype html><title>the app</title><h1>the app</h1>");
});
await new Promise((started) => app.listen(new URL(given.callback).port, "127.0.0.1", started));

async function arrived(page) {
  await page.waitForURL((url) => url.href.startsWith(given.callback));
  return new URL(page.url()).searchParams;
}

async function tokens(parameters) {
  const body = new URLSearchParams({
    grant_type: "authorization_code",
    client_id: given.client,
    redirect_uri: given.callback,
    code: parameters.get("code") ?? "",
    code_verifier: verifier,
  });
  const answer = await (await fetch(`${given.url}/oauth2/token`, { method: "POST", body })).json();
  if (!answer.id_token) return answer;
  return JSON.parse(Buffer.from(answer.id_token.split(".")[1], "base64url"));
}

async function signOut(page) {
  const query = new URLSearchParams({ client_id: given.client, logout_uri: given.signedOut });
  await page.goto(`${given.url}/logout?${query}`);
  return page.url();
}

const profile = mkdtempSync(join(tmpdir(), "tidegate-chromium-"));
const flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";

async function open(options = {}) {
  const browser = await chromium.launchPersistentContext(join(profile, randomBytes(4).toString("hex")), {
    executablePath: given.chromium,
    headless: true,
    args: flags.split(" "),
    viewport: { width: 1280, height: 800 },
    ...options,
  });
  browser.setDefaultTimeout(20_000);
  const page = browser.pages()[0] ?? (await browser.newPage());
  page.on("console", (message) => {
    // A refused form is a 400 on purpose, and a browser says so.
    const isStatus = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !isStatus) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  return { browser, page };
}

async function byPassword({ browser, page }) {
  await page.goto(authorize());
  equal("password: the page's heading", await page.getByRole("heading").innerText(), "Sign in");
  equal("password: the name's field has the focus", await page.evaluate(() => document.activeElement.name), "username");
  const targets = await page.locator("button, .button, input:not([type=hidden])").all();
  for (const target of targets) {
    const box = await target.boundingBox();
    if (box.height < 44) check("password: targets are large enough for fingers", false, await target.innerText());
  }
  check("password: found what fingers touch", targets.length >= 5, targets.length);
  const styled = await page.getByRole("button").evaluate((button) => getComputedStyle(button).backgroundColor);
  check("password: the policy lets the style through", styled !== "rgba(0, 0, 0, 0)" && styled !== "rgb(239, 239, 239)", styled);
  await page.screenshot({ path: join(given.artefacts, "hosted-sign-in.png") });

  await page.getByLabel("E-mail", { exact: true }).fill("ana@example.com");
  await page.getByLabel("Password").fill("Wrong-Horse-7");
  await page.getByRole("button", { name: "Sign in" }).click();
  const alert = await page.getByRole("alert").innerText();
  equal("password: a wrong one is said in plain words", alert, "The e-mail or the password is not right. Please try again.");
  equal("password: the name stays", await page.getByLabel("E-mail", { exact: true }).inputValue(), "ana@example.com");
  await page.screenshot({ path: join(given.artefacts, "hosted-sign-in-wrong.png") });
  await page.getByLabel("Password").fill(PASSWORD);
  await page.keyboard.press("Enter");
  const back = await arrived(page);
  equal("password: the state is echoed", back.get("state"), "a state & more");
  const ana = await tokens(back);
  equal("password: the tokens are hers", ana.email, "ana@example.com");
  equal("password: the nonce is in the token", ana.nonce, "n-1");
  const cookies = await browser.cookies(given.url);
  check("password: cookies are out of scripts' reach", cookies.length >= 2 && cookies.every((c) => c.httpOnly && c.sameSite === "Lax"), JSON.stringify(cookies));

  await page.goto(authorize());
  equal("session: a second sign-in needs no page", (await tokens(await arrived(page))).sub, ana.sub);
  equal("session: signing out goes to the app", await signOut(page), given.signedOut);
  await page.goto(authorize());
  equal("session: then the next person is asked", await page.getByRole("heading").innerText(), "Sign in");
  check("session: and nothing of the last one shows", !(await page.content()).includes("ana@"));
}

async function byProviders({ page }) {
  await page.goto(authorize());
  await page.getByRole("link", { name: "Continue with Google" }).click();
  equal("Google: its page", await page.getByRole("heading").innerText(), "Sign in with Google");
  await page.screenshot({ path: join(given.artefacts, "hosted-google.png") });
  await page.getByLabel("E-mail", { exact: true }).fill("ben@example.com");
  await page.getByRole("button", { name: "Continue" }).click();
  const ben = await tokens(await arrived(page));
  equal("Google: the address", ben.email, "ben@example.com");
  equal("Google: verified", ben.email_verified, true);
  equal("Google: the provider is named", ben.identities?.[0].providerName, "Google");
  await signOut(page);

  await page.goto(authorize());
  await page.getByRole("link", { name: "Continue with Apple" }).click();
  await page.getByLabel("E-mail", { exact: true }).fill("cleo@example.com");
  await page.getByLabel("Hide my e-mail").check();
  await page.getByRole("button", { name: "Continue" }).click();
  const cleo = await tokens(await arrived(page));
  check("Apple: a relay address", cleo.email?.endsWith("@privaterelay.appleid.com"), JSON.stringify(cleo));
  check("Apple: another user", cleo.sub && cleo.sub !== ben.sub);
  await signOut(page);

  await page.goto(authorize());
  await page.getByRole("link", { name: "Continue with Google" }).click();
  await page.getByRole("button", { name: "Cancel" }).click();
  equal("Google: cancelling tells the app", (await arrived(page)).get("error"), "access_denied");
}

async function outsideProvider() {
  const provider = new OAuth2Server();
  await provider.issuer.keys.generate("RS256");
  await provider.start(given.mockPort, "127.0.0.1");
  provider.issuer.url = `http://127.0.0.1:${given.mockPort}`;
  const claims = { sub: "dora-1", email: "dora@example.com", email_verified: true };
  provider.service.on("beforeTokenSigning", (token) => Object.assign(token.payload, claims, { aud: "corp-client" }));
  return provider;
}

// `tidegate sign-in` as a kiosk runs it: where to go, and what came of it.
function commandLine(provider) {
  const argv = ["sign-in", "--provider", provider, "--no-browser", "--json"];
  const environment = { ...process.env, TIDEGATE_SOCKET: given.socket };
  const child = spawn(given.tidegate, argv, { env: environment, stdio: ["ignore", "pipe", "pipe"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => JSON.parse((await lines.next()).value ?? "{}");
  const ended = new Promise((resolve) => child.on("close", resolve));
  return { next, ended };
}

async function byCommandLine({ browser, page }) {
  const provider = await outsideProvider();
  const dora = commandLine("Corp");
  const { authorize_url } = await dora.next();
  await page.goto(authorize_url);
  await page.waitForURL((url) => url.href.startsWith(given.daemons));
  equal("command line: the daemon's page", await page.getByRole("heading").innerText(), "You are signed in");
  await page.screenshot({ path: join(given.artefacts, "signed-in-at-the-daemon.png") });
  equal("command line: the outside provider's user", (await dora.next()).username, "dora@example.com");
  equal("command line: it ends well", await dora.ended, 0);
  await provider.stop();

  const ana = commandLine("Google");
  await page.goto((await ana.next()).authorize_url);
  equal("command line: the next person is asked", await page.getByRole("heading").innerText(), "Sign in with Google");
  await page.getByLabel("E-mail", { exact: true }).fill("ana@example.com");
  await page.getByRole("button", { name: "Continue" }).click();
  await page.waitForURL((url) => url.href.startsWith(given.daemons));
  const session = await ana.next();
  equal("command line: Google's user", session.username, "ana@example.com");
  await page.goto(authorize());
  const back = await tokens(await arrived(page));
  equal("command line: the same sub as by the page", back.sub, session.subject);
  await signOut(page);
  await byPasswordAgain(page, session.subject);
  equal("command line: it ends well again", await ana.ended, 0);
}

async function byPasswordAgain(page, subject) {
  await page.goto(authorize());
  await page.getByLabel("E-mail", { exact: true }).fill("ana@example.com");
  await page.getByLabel("Password").fill(PASSWORD);
  await page.keyboard.press("Enter");
  equal("one person: Google and the password are one user", (await tokens(await arrived(page))).sub, subject);
  await signOut(page);
}

async function byOutsideProvider({ page }) {
  const provider = await outsideProvider();
  await page.goto(authorize());
  await page.getByRole("link", { name: "Continue with Corp" }).click();
  const dora = await tokens(await arrived(page));
  equal("outside provider: the address", dora.email, "dora@example.com");
  equal("outside provider: the user's name", dora["cognito:username"], "Corp_dora-1");
  await signOut(page);
  provider.service.on("beforeTokenSigning", (token) => { token.payload.nonce = "another"; });
  await page.goto(authorize());
  await page.getByRole("link", { name: "Continue with Corp" }).click();
  equal("outside provider: a foreign nonce does not count", (await arrived(page)).get("error"), "server_error");
  await provider.stop();
}

async function withoutScripts({ page }) {
  await page.goto(authorize());
  await page.screenshot({ path: join(given.artefacts, "hosted-sign-in-kiosk.png") });
  await page.getByRole("link", { name: "Continue with Apple" }).tap();
  await page.getByLabel("E-mail", { exact: true }).fill("emil@example.com");
  await page.getByRole("button", { name: "Continue" }).tap();
  await page.getByRole("button", { name: "Continue" }).tap();
  equal("no scripts, by touch: Apple signs in", (await tokens(await arrived(page))).email, "emil@example.com");
  await signOut(page);
  await page.goto(authorize());
  await page.getByLabel("E-mail", { exact: true }).fill("ana@example.com");
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Sign in" }).tap();
  equal("no scripts, by touch: a password signs in", (await tokens(await arrived(page))).email, "ana@example.com");
}

const kiosk = { viewport: { width: 600, height: 960 }, hasTouch: true, javaScriptEnabled: false, colorScheme: "dark" };
for (const [part, options] of [[byPassword], [byProviders], [byOutsideProvider], [byCommandLine], [withoutScripts, kiosk]]) {
  const opened = await open(options);
  try {
    await part(opened);
  } catch (error) {
    check(`${part.name} reached its end`, false, `${error} at ${opened.page.url()}: ${await opened.page.locator("main").innerText().catch(() => "")}`);
  }
  await opened.browser.close();
}
equal("the browser complained of nothing", complaints.join("; "), "");
app.close();
rmSync(profile, { recursive: true, force: true });
