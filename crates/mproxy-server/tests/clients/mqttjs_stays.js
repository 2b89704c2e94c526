// mqtt.js as applications run it: it says when it has subscribed, each time it has, and what it hears, until it is
// killed. Usage: mqttjs_stays.js HOST PORT 3|4|5

const mqtt = require('mqtt')

const [host, port, version] = process.argv.slice(2)
const client = mqtt.connect(`mqtt://${host}:${port}`, {
  protocolVersion: Number(version),
  protocolId: version === '3' ? 'MQIsdp' : 'MQTT',
  clientId: `js-${version}`,
  resubscribe: false,
})
client.on('connect', async () => {
  try {
    await client.subscribeAsync('news', { qos: 1 })
    console.log('subscribed')
  } catch (error) {
    console.log('lost while subscribing')
  }
})
client.on('message', (_topic, payload) => console.log(`heard ${payload}`))
client.on('error', (error) => console.log(`error ${error}`))
client.on('close', () => console.log('closed'))
