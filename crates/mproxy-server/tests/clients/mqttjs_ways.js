// mqtt.js over whatever URL: what it publishes comes back to it, byte for byte. Usage: mqttjs_ways.js URL 3|4|5 [CA]

const { once } = require('node:events')
const { readFileSync } = require('node:fs')
const mqtt = require('mqtt')

const [url, version, ca] = process.argv.slice(2)

async function main() {
  const client = mqtt.connect(url, {
    protocolVersion: Number(version),
    protocolId: version === '3' ? 'MQIsdp' : 'MQTT',
    clientId: `js-${version}`,
    reconnectPeriod: 0,
    ca: ca && readFileSync(ca),
  })
  const failed = once(client, 'error').then(([error]) => { throw error })
  await Promise.race([once(client, 'connect'), failed])
  const topic = `js/${version}`
  await client.subscribeAsync(topic, { qos: 2 })
  for (const [qos, size] of [[0, 1], [1, 70000], [2, 1000000]]) {
    const payload = Buffer.alloc(size, 'payload')
    const [[, came, packet]] = await Promise.all([once(client, 'message'), client.publishAsync(topic, payload, { qos })])
    console.log('received', packet.qos, came.length, payload.equals(came) ? 'the same' : 'something else')
  }
  await client.endAsync()
  console.log('ended')
}

setTimeout(() => { console.log('too late'); process.exit(1) }, 20000).unref()
main().catch((error) => { console.log(error); process.exit(1) })
