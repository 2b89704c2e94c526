// HiveMQ Community Edition over TCP and WebSocket, with all that it writes in one folder:
//
//     mvn dependency:copy-dependencies -DoutputDirectory=jars
//     java -cp 'jars/*' Broker.java 1884 8884 /tmp/hivemq

import com.hivemq.embedded.EmbeddedHiveMQ;
import java.nio.file.Files;
import java.nio.file.Path;

public class Broker {
    public static void main(String[] arguments) throws Exception {
        Path folder = Path.of(arguments[2]);
        for (String name : new String[] {"conf", "data", "extensions"}) {
            Files.createDirectories(folder.resolve(name));
        }
        Files.writeString(
                folder.resolve("conf/config.xml"),
                """
                <?xml version="1.0"?>
                <hivemq>
                  <listeners>
                    <tcp-listener>
                      <port>%s</port>
                      <bind-address>127.0.0.1</bind-address>
                    </tcp-listener>
                    <websocket-listener>
                      <port>%s</port>
                      <bind-address>127.0.0.1</bind-address>
                      <path>/mqtt</path>
                    </websocket-listener>
                  </listeners>
                  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
                </hivemq>
                """
                        .formatted(arguments[0], arguments[1]));
        EmbeddedHiveMQ broker =
                EmbeddedHiveMQ.builder()
                        .withConfigurationFolder(folder.resolve("conf"))
                        .withDataFolder(folder.resolve("data"))
                        .withExtensionsFolder(folder.resolve("extensions"))
                        .build();
        broker.start().join();
        System.out.println("HiveMQ is running");
    }
}
