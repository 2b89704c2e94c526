// aedes, which asks over HTTP about each PUBLISH if it is given the address of who decides:
//
//     node broker.js 1883 [http://127.0.0.1:8000/auth/topic]
import { createServer } from "node:net";
import { Aedes } from "aedes";
import { Pool } from "undici";

const [port, decider] = process.argv.slice(2);
const options = {};
if (decider) {
  const { origin, pathname } = new URL(decider);
  // Connections are kept; each carries one question at a time.
  const pool = new Pool(origin, { connections: 64 });
  options.authorizePublish = (client, { topic, qos }, done) => {
    const body = new URLSearchParams({ client_id: client.id, routing_key: topic, qos }).toString();
    pool
      .request({ path: pathname, method: "POST", headers: { "content-type": "application/x-www-form-urlencoded" }, body })
      .then((response) => response.body.text())
      .then((answer) => done(answer === "allow" ? null : new Error("not authorized")), done);
  };
}
const broker = await Aedes.createBroker(options);
createServer(broker.handle).listen(Number(port), "127.0.0.1");
