import java.nio.charset.StandardCharsets;
import java.util.Scanner;
import org.apache.kafka.tools.AclCommand;

/** Reads lines of arguments, parted by tabs, and does with each what kafka-acls.sh does. One machine for all of them. */
public class Rights {
    public static void main(String[] arguments) {
        Scanner lines = new Scanner(System.in, StandardCharsets.UTF_8);
        while (lines.hasNextLine()) {
            AclCommand.main(lines.nextLine().split("\t", -1));
        }
    }
}
