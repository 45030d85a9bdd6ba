// An app on AWS's SDK for JavaScript that knows nothing of Tidegate: puts an object per line of stdin, with what the SDK
// finds by itself. Usage: node vending_client.mjs BUCKET NODE_FOLDER

import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const [bucket, folder] = process.argv.slice(2);
const require = createRequire(join(folder, "node_modules", "x.js"));
const { S3Client, PutObjectCommand } = require("@aws-sdk/client-s3");
const { fromHttp, fromNodeProviderChain } = require("@aws-sdk/credential-providers");

// A call that fails must be seen: nothing is tried twice.
const s3 = new S3Client({ credentials: fromNodeProviderChain(), forcePathStyle: true, maxAttempts: 1 });
for await (const line of createInterface({ input: process.stdin })) {
  const key = line.trim();
  let error = null;
  try {
    await s3.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: "by JavaScript" }));
  } catch (failure) {
    error = `${failure.name}: ${failure.message}`;
    // The chain says only that no provider worked; the provider of the endpoint knows why.
    if (process.env.AWS_CONTAINER_CREDENTIALS_FULL_URI) {
      error += await fromHttp()().then(() => "", (why) => `; ${why.Code ?? why.name}: ${why.Message ?? why.message}`);
    }
  }
  console.log(JSON.stringify({ key, error }));
}
