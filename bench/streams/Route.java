import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * What a router's writes cost in Kafka Streams: exactly-once v2, a RocksDB store with its changelog, the same outputs.
 *
 * <p>Each request looks its resource up, writes as many records to the store as keylane writes to its state (those of
 * the request itself, then tombstones of one that came long before), and sends as many on. Nothing is decoded and
 * nothing decided: what keylane does with a request would come on top.
 *
 * <p>Arguments: servers, input topic, first part of the output topics' names, application id, folder of the store,
 * threads, commit interval in ms, writes to the store for a request in the mean, then how many records go to each output topic.
 */
public final class Route implements Processor<byte[], byte[], byte[], byte[]> {
    private static final String STORE = "runs";
    private static final int REMEMBERED = 5_000;

    private final double writes;
    private final double[] outputs;
    private final double[] owed;
    private final ArrayDeque<byte[]> remembered = new ArrayDeque<>();
    private ProcessorContext<byte[], byte[]> context;
    private KeyValueStore<byte[], byte[]> store;

    private Route(double writes, double[] outputs) {
        this.writes = writes;
        this.outputs = outputs;
        this.owed = new double[outputs.length + 1];
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
        this.context = context;
        this.store = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<byte[], byte[]> request) {
        store.get(request.key());
        long number = context.recordMetadata().orElseThrow().offset();
        owed[outputs.length] += writes;
        for (int write = 0; owed[outputs.length] >= 1; write++, owed[outputs.length]--) {
            if (write < 2) {
                byte[] key = ((write == 0 ? "run/" : "member/") + number).getBytes(StandardCharsets.US_ASCII);
                store.put(key, request.value());
                remembered.add(key);
            } else if (remembered.size() > REMEMBERED) {
                store.delete(remembered.poll());
            }
        }
        while (remembered.size() > 2 * REMEMBERED) {
            remembered.poll();
        }
        for (int output = 0; output < outputs.length; output++) {
            for (owed[output] += outputs[output]; owed[output] >= 1; owed[output]--) {
                context.forward(request, "to-" + output);
            }
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        Serde<byte[]> bytes = Serdes.ByteArray();
        double writes = Double.parseDouble(arguments[7]);
        double[] outputs = new double[arguments.length - 8];
        Topology topology = new Topology();
        topology.addSource("requests", bytes.deserializer(), bytes.deserializer(), arguments[1]);
        for (int output = 0; output < outputs.length; output++) {
            outputs[output] = Double.parseDouble(arguments[8 + output]);
        }
        topology.addProcessor("route", () -> new Route(writes, outputs), "requests");
        topology.addStateStore(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), bytes, bytes), "route");
        for (int output = 0; output < outputs.length; output++) {
            topology.addSink("to-" + output, arguments[2] + output, bytes.serializer(), bytes.serializer(), "route");
        }
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[3]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[4]);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, arguments[5]);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, arguments[6]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 1_000);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 * 1024);
        KafkaStreams streams = new KafkaStreams(topology, settings);
        CountDownLatch stopped = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close(Duration.ofSeconds(10));
            stopped.countDown();
        }));
        streams.start();
        stopped.await();
    }
}
