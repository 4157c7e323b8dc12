// Wrote the batches in this folder, with Apache Kafka's own producer (4.3.1): java -cp '.cache/kafka/4.3.1/*' tests/samples/batches/Produce.java BROKER
// Each file is the segment of a topic with one partition, retention.ms -1 and compression.type producer.

import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Produce {
    public static void main(String[] arguments) throws Exception {
        for (String codec : List.of("gzip", "snappy", "lz4", "zstd")) {
            Map<String, Object> options = Map.of("bootstrap.servers", arguments[0], "compression.type", codec, "linger.ms", 1000, "batch.size", 500_000);
            try (var producer = new KafkaProducer<>(options, new ByteArraySerializer(), new ByteArraySerializer())) {
                for (int number = 0; number < 3; number++) {
                    // 90 KB: several blocks of every codec.
                    byte[] value = ("a café in Paris, number " + number + ". ").repeat(3_500).getBytes(StandardCharsets.UTF_8);
                    List<Header> headers = List.of(new RecordHeader("ce_id", Integer.toString(number).getBytes()), new RecordHeader("empty", null));
                    producer.send(new ProducerRecord<>("java-" + codec, 0, 1_790_000_000_000L, number == 1 ? null : "a user".getBytes(), value, headers));
                }
                producer.send(new ProducerRecord<>("java-" + codec, 0, 1_790_000_000_000L, "a user".getBytes(), null, List.of()));
            }
        }
    }
}
