import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Scanner;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;

/** Reads lines of a key in base64 and a number of partitions; prints the Java client's partition for each. */
public class Partitions {
    public static void main(String[] arguments) {
        Scanner lines = new Scanner(System.in, StandardCharsets.US_ASCII);
        StringBuilder answers = new StringBuilder();
        while (lines.hasNextLine()) {
            String[] words = lines.nextLine().split(" ", -1);
            byte[] key = Base64.getDecoder().decode(words[0]);
            answers.append(BuiltInPartitioner.partitionForKey(key, Integer.parseInt(words[1]))).append('\n');
        }
        System.out.print(answers);
    }
}
