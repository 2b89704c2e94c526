// Eclipse Paho for Go as applications run it: it says what it hears, until it is killed. It speaks 3.1.1.
// Usage: pahogo HOST PORT 4
package main

import (
	"fmt"
	"log"
	"os"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

func main() {
	options := mqtt.NewClientOptions().AddBroker("tcp://" + os.Args[1] + ":" + os.Args[2]).SetClientID("paho-go")
	options.SetConnectRetry(true)
	options.SetOnConnectHandler(func(client mqtt.Client) {
		if token := client.Subscribe("news", 1, heard); token.Wait() && token.Error() == nil {
			fmt.Println("subscribed")
		}
	})
	if token := mqtt.NewClient(options).Connect(); token.Wait() && token.Error() != nil {
		log.Fatal(token.Error())
	}
	select {}
}

func heard(_ mqtt.Client, message mqtt.Message) {
	fmt.Printf("heard %s\n", message.Payload())
}
