package strongroom;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.util.Iterator;
import java.util.Map;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkEnv;

/** Compares what is really set in this process with what the agent requires, once per Spark context. */
final class Guard {
  private static volatile SparkEnv passed;

  private Guard() {}

  /**
   * Refuses to go on unless every required setting is in force.
   *
   * <p>A required value that is empty means: not set, or empty.
   *
   * @throws IOException a setting differs, or no Spark context runs here
   */
  static void check() throws IOException {
    SparkEnv environment = SparkEnv.get();
    if (environment == null) {
      throw new IOException("strongroom: no Spark context runs in this process. Make a SparkSession before using a dataset.");
    }
    if (environment == passed) {
      return;
    }
    JsonNode required = KeySocket.field(KeySocket.ask(KeySocket.question("settings")), "required");
    if (!required.isObject() || required.size() == 0) {
      throw new IOException("strongroom: the agent requires no settings at all, which cannot be. Look at the agent's log.");
    }
    Iterator settings = required.fields();
    while (settings.hasNext()) {
      Map.Entry setting = (Map.Entry) settings.next();
      compare(environment.conf(), (String) setting.getKey(), ((JsonNode) setting.getValue()).asText());
    }
    passed = environment;
  }

  private static void compare(SparkConf conf, String name, String required) throws IOException {
    String found = conf.get(name, "");
    if (!found.equals(required)) {
      throw new IOException("strongroom: the setting " + name + " is " + quoted(found) + ", but " + quoted(required)
          + " is required. Remove it from the application and from the options of submit.");
    }
  }

  private static String quoted(String value) {
    return value.isEmpty() ? "not set" : "'" + value + "'";
  }
}
