package strongroom;

import java.io.IOException;
import java.nio.file.Paths;
import java.util.HashMap;
import java.util.Iterator;
import java.util.Locale;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.parquet.column.ColumnDescriptor;
import org.apache.parquet.crypto.ColumnEncryptionProperties;
import org.apache.parquet.crypto.DecryptionPropertiesFactory;
import org.apache.parquet.crypto.EncryptionPropertiesFactory;
import org.apache.parquet.crypto.FileDecryptionProperties;
import org.apache.parquet.crypto.FileEncryptionProperties;
import org.apache.parquet.crypto.ParquetCipher;
import org.apache.parquet.crypto.ParquetCryptoRuntimeException;
import org.apache.parquet.hadoop.api.WriteSupport;
import org.apache.parquet.hadoop.metadata.ColumnPath;

/**
 * Gives Parquet the key and AAD prefix of each file of a dataset.
 *
 * <p>Plain Parquet is allowed below the TEE's scratch folder only.
 */
public final class CryptoFactory implements EncryptionPropertiesFactory, DecryptionPropertiesFactory {
  private static final String SCRATCH_VARIABLE = "STRONGROOM_SCRATCH";

  public FileEncryptionProperties getFileEncryptionProperties(Configuration conf, Path path, WriteSupport.WriteContext context) {
    if (isScratch(path)) {
      return null;
    }
    try {
      DatasetPath file = DatasetPath.of(path);
      Agent.FileKey key = Agent.encryption(file);
      NewFiles.giveKey(file);
      FileEncryptionProperties.Builder properties = FileEncryptionProperties.builder(key.key.key).withAlgorithm(ParquetCipher.AES_GCM_V1);
      if (key.columns == null) {
        return properties.withAADPrefix(key.key.companion).build();
      }
      return properties.withFooterKeyMetadata(key.key.companion).withEncryptedColumns(columns(context, key.columns)).build();
    } catch (IOException e) {
      throw new ParquetCryptoRuntimeException(e.getMessage(), e);
    }
  }

  public FileDecryptionProperties getFileDecryptionProperties(Configuration conf, Path path) {
    if (isScratch(path)) {
      return null;
    }
    try {
      Agent.FileKey key = Agent.decryption(DatasetPath.of(path));
      if (key.columns == null) {
        return FileDecryptionProperties.builder().withFooterKey(key.key.key).withAADPrefix(key.key.companion).build();
      }
      return FileDecryptionProperties.builder().withKeyRetriever(new WrappedKeys(DatasetPath.of(path), key)).build();
    } catch (IOException e) {
      throw new ParquetCryptoRuntimeException(e.getMessage(), e);
    }
  }

  /**
   * Returns how each column is encrypted: under its own key, or under the footer's.
   *
   * <p>Columns that are left out would be written in the clear. Spark does not tell upper from lower case, so neither does this.
   */
  private static Map columns(WriteSupport.WriteContext context, Map keys) {
    Map folded = new HashMap();
    Iterator entries = keys.entrySet().iterator();
    while (entries.hasNext()) {
      Map.Entry entry = (Map.Entry) entries.next();
      folded.put(((String) entry.getKey()).toLowerCase(Locale.ROOT), entry.getValue());
    }
    Map columns = new HashMap();
    Iterator described = context.getSchema().getColumns().iterator();
    while (described.hasNext()) {
      String[] path = ((ColumnDescriptor) described.next()).getPath();
      ColumnPath column = ColumnPath.get(path);
      Agent.Key key = (Agent.Key) folded.get(path[0].toLowerCase(Locale.ROOT));
      ColumnEncryptionProperties.Builder properties = ColumnEncryptionProperties.builder(column);
      if (key != null) {
        properties.withKey(key.key).withKeyMetaData(key.companion);
      }
      columns.put(column, properties.build());
    }
    return columns;
  }

  private static boolean isScratch(Path path) {
    String scheme = path.toUri().getScheme();
    if (scheme != null && !scheme.equals("file")) {
      return false;
    }
    String scratch = System.getenv(SCRATCH_VARIABLE);
    if (scratch == null || !Paths.get(path.toUri().getPath()).normalize().startsWith(Paths.get(scratch))) {
      throw new ParquetCryptoRuntimeException("strongroom: " + path + " lies outside the protected scratch folder."
          + " Bind it as a dataset and use strongroom://NAME.");
    }
    return true;
  }
}
