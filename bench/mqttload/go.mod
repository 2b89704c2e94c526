module mqttload

go 1.25
